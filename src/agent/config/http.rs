//! `[http]` and `[metrics]`: what listens on the network, and where.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::kind::{Fault, Kind, boolean, seconds};
use super::section::Section;
use super::{Http, secret, url};

/// Reads `[http]`.
pub(super) fn read(s: &mut Section<'_>, base_dir: &Path) -> Option<Http> {
    let listen = s.optional("listen", address("0.0.0.0:8443"));
    let cert = s.optional("cert_file", secret::certificates_pem(base_dir));
    let key = s.optional("key_file", secret::private_key_pem(base_dir));
    let public_url = s.optional("public_url", url::public());
    let link_valid = s.or("link_valid_s", Duration::from_secs(3600), seconds(10..=604_800));
    let links_in_alerts = s.or("links_in_alerts", false, boolean());
    for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if s.has(one) && !s.has(other) {
            s.problem(one, format!("stands without {other}"), "give both or neither");
        }
    }
    if listen == Some(None) {
        for key in ["cert_file", "public_url"] {
            if s.has(key) {
                s.problem(key, "has no meaning while nothing listens", "give listen, or leave it out");
            }
        }
        if links_in_alerts == Some(true) {
            let message = "links would lead nowhere: nothing listens";
            s.problem("links_in_alerts", message, "give listen, or leave it out");
        }
    }
    Some(Http {
        listen: listen?,
        certificate: cert?.zip(key?),
        public_url: public_url?.map(|web| web.url),
        link_valid: link_valid?,
        links_in_alerts: links_in_alerts?,
    })
}

/// Reads `[metrics]`.
pub(super) fn metrics(s: &mut Section<'_>) -> Option<Option<SocketAddr>> {
    s.optional("listen", address("127.0.0.1:9464"))
}

fn address<'a>(such_as: &str) -> Kind<'a, SocketAddr> {
    let allowed =
        format!("an address and a port such as {such_as:?} or \"[::1]:8443\"; 0.0.0.0 and [::] are all addresses");
    Kind::of_text(allowed, |text| match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        Ok(_) => Err(Fault::new("has port 0")),
        Err(_) => Err(Fault::new(format!("{text:?} is no address with a port"))),
    })
}
