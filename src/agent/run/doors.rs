//! What others may knock at over the network: HTTPS with signed links, and the metrics. Neither is worth the daemon's
//! end: an address that cannot be had is tried again, a certificate that cannot be used is said, and the rest goes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use crate::agent::config::{Config, Http};
use crate::agent::http::links::{Links, Medium};
use crate::agent::http::listener::{self, Bounds};
use crate::agent::http::tls::Identity;
use crate::agent::store::{ClipState, Store};
use crate::agent::uplink;
use crate::base::clock::{Clock, Wall};
use crate::base::error::Chain;
use crate::base::stop::StopToken;
use crate::contract::result::ClipLinks;
use crate::contract::status::HttpsStatus;

/// How long to wait before an address is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// HTTPS as the config wants it.
pub struct Https {
    /// Where.
    pub listen: SocketAddr,
    /// Makes links; none without a certificate.
    pub ready: Option<(Arc<Links>, TlsAcceptor)>,
    /// How it is.
    pub status: watch::Sender<HttpsStatus>,
}

impl Https {
    /// What makes links to it.
    pub fn links(&self) -> Option<Arc<Links>> {
        self.ready.as_ref().map(|(links, _)| Arc::clone(links))
    }
}

/// HTTPS of this device; none where the config has none.
pub fn https(config: &Config) -> Option<Https> {
    let listen = config.http.listen?;
    let mut status =
        HttpsStatus { listen: listen.to_string(), fingerprint_sha256: None, self_signed: false, trouble: None };
    let ready = match ready(config, listen) {
        Ok((links, identity)) => {
            log::info!("https: the certificate's SHA-256 is {}", identity.fingerprint);
            (status.fingerprint_sha256, status.self_signed) = (Some(identity.fingerprint), identity.self_signed);
            Some((Arc::new(links), identity.acceptor))
        }
        Err(e) => {
            let why = Chain(e.as_ref()).to_string();
            log::error!("https: nothing listens on {listen}: {why}");
            status.trouble = Some(why);
            None
        }
    };
    Some(Https { listen, ready, status: watch::Sender::new(status) })
}

fn ready(config: &Config, listen: SocketAddr) -> Result<(Links, Identity), Box<dyn std::error::Error + Send + Sync>> {
    let Http { certificate, public_url, link_valid, .. } = &config.http;
    let state_dir = &config.paths.state_dir;
    // The daemon may be at its first start.
    std::fs::create_dir_all(state_dir)?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let reached = match listen.ip().is_unspecified() {
        true => format!("{host}:{}", listen.port()),
        false => listen.to_string(),
    };
    let base = public_url.clone().unwrap_or_else(|| format!("https://{reached}"));
    let mut names = vec!["localhost".to_owned(), host_of(&base).to_owned()];
    names.extend((!listen.ip().is_unspecified()).then(|| listen.ip().to_string()));
    names.push(host);
    names.sort();
    names.dedup();
    // What is no name for a certificate (a host called "my_host") need not stop it.
    names.retain(|name| name.parse::<std::net::IpAddr>().is_ok() || is_dns_name(name));
    let own = format!("vedette {} {}", config.device.site, config.device.id);
    let identity = Identity::open(certificate.as_ref(), (&own, &names), state_dir)?;
    Ok((Links::open(state_dir, base, *link_valid)?, identity))
}

fn host_of(url: &str) -> &str {
    let authority = url.trim_start_matches("https://").split('/').next().unwrap_or_default();
    match authority.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split(':').next().unwrap_or_default(),
    }
}

fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    name.split('.').all(label)
}

/// Serves on an address, when it can be had, until stopped.
pub async fn serve(
    (address, tls): (SocketAddr, Option<TlsAcceptor>),
    routes: Router,
    stop: StopToken,
    say: impl Fn(Option<String>) + Send,
) {
    let mut said = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(e) => {
                say(Some(format!("cannot listen on {address}: {e}")));
                if !std::mem::replace(&mut said, true) {
                    log::error!("http: cannot listen on {address}, it is tried again: {e}");
                }
            }
        }
        tokio::select! {
            () = stop.stopped() => return,
            () = tokio::time::sleep(TRY_AGAIN_AFTER) => {}
        }
    };
    say(None);
    log::info!("http: listening on {address}");
    listener::serve(listener, tls, routes, Bounds::default(), stop).await;
}

/// Links for an alert.
pub fn pair(links: &Links, incident: Uuid, now: Wall) -> uplink::LinkPair {
    uplink::LinkPair {
        clip: links.link(Medium::Clip, incident, now).url,
        peak: links.link(Medium::Peak, incident, now).url,
    }
}

/// Links to what there is of an incident, or why there are none.
pub fn links_to(links: Option<&Links>, store: &Store, incident: Uuid, clock: &dyn Clock) -> Result<ClipLinks, String> {
    let links =
        links.ok_or("this device serves no clips: http.listen is not set, or its certificate cannot be used")?;
    let stored = store.reader().incident(incident).map_err(|e| Chain(&e).to_string())?;
    let stored = stored.ok_or_else(|| format!("the store knows no incident {incident}"))?;
    let clip = stored.incident.clip.ok_or("no clip was planned of it")?;
    match (clip.state, clip.report.lost_because) {
        (ClipState::Done, _) => {}
        (ClipState::Planned | ClipState::Recording, _) => return Err("its clip is still being made".into()),
        (_, why) => return Err(format!("its clip is gone: {}", why.unwrap_or_default())),
    }
    let now = clock.wall();
    let peak = clip.report.peak_jpeg_path.map(|_| links.link(Medium::Peak, incident, now));
    Ok(ClipLinks { clip: links.link(Medium::Clip, incident, now), peak })
}
