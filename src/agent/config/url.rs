//! The kinds of URL that a configuration has: a camera's, the broker's, where clips go, and the device's own.
//!
//! Invariant: no message repeats any part of a URL except its scheme: whatever else stands there may turn out
//! to be a password in the wrong place.

use std::fmt;
use std::net::IpAddr;

use toml::de::DeValue;

use super::kind::{Fault, Kind, distinct};

/// A broker's address. To show it, use its `Display`, which leaves out a WebSocket's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// `mqtts://` or `wss://`: the connection is encrypted.
    pub tls: bool,
    /// Name or address; IPv6 without brackets.
    pub host: String,
    /// By default 8883 with `mqtts://`, 1883 with `mqtt://`, 443 with `wss://`, 80 with `ws://`.
    pub port: u16,
    /// `ws://` or `wss://`: MQTT goes over a WebSocket at this path, by default `/mqtt`.
    pub websocket: Option<String>,
}

impl Broker {
    /// Whether what is sent there cannot leave this machine.
    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// `rtsp://` or `rtsps://`, without credentials.
pub(super) fn camera<'a>() -> Kind<'a, String> {
    Kind::of_text("rtsp://host[:port]/path or rtsps://..., without user and password", |text| {
        Parts::of(text, &["rtsp", "rtsps"]).map(|_| text.to_string())
    })
}

/// A broker, by its URL.
pub(super) fn broker<'a>() -> Kind<'a, Broker> {
    Kind::of_text("mqtts://host[:port] or wss://host[:port][/path], or without encryption mqtt:// or ws://", |text| {
        let parts = Parts::of(text, &["mqtts", "mqtt", "wss", "ws"])?;
        let (tls, usual) = match parts.scheme {
            "mqtts" => (true, 8883),
            "mqtt" => (false, 1883),
            "wss" => (true, 443),
            _ => (false, 80),
        };
        let websocket = match (parts.scheme, parts.rest) {
            ("wss" | "ws", "" | "/") => Some("/mqtt".to_owned()),
            ("wss" | "ws", path) if path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%".contains(&b)) => {
                Some(path.to_owned())
            }
            ("wss" | "ws", _) => return Err(Fault::new("has more than a plain path behind the host")),
            (_, "" | "/") => None,
            _ => return Err(Fault::new("has something behind the host")),
        };
        Ok(Broker { tls, host: parts.host.to_owned(), port: parts.port.unwrap_or(usual), websocket })
    })
}

/// One broker, or a list of them in the order in which they are tried.
pub(super) fn brokers<'a>() -> Kind<'a, Vec<Broker>> {
    const MOST: usize = 8;
    let one = broker();
    let many = distinct(broker());
    let allowed = format!("{}; or a list of 1 to {MOST} such URLs", one.allowed);
    Kind::new(allowed, move |value| match value {
        DeValue::Array(_) => match many.read(value)? {
            brokers if (1..=MOST).contains(&brokers.len()) => Ok(brokers),
            brokers => Err(Fault::new(format!("lists {} brokers", brokers.len()))),
        },
        _ => one.read(value).map(|broker| vec![broker]),
    })
}

/// An `https://` or `http://` place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Web {
    pub(super) tls: bool,
    host: String,
    /// All of it, without a slash at its end.
    pub(super) url: String,
}

impl Web {
    /// Whether what is sent there cannot leave this machine.
    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

/// Where clips may go.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Place {
    Bucket { bucket: String, prefix: String },
    Web(Web),
}

/// `s3://bucket[/prefix]`, `https://host[:port][/path]` or the same with `http`.
pub(super) fn upload<'a>() -> Kind<'a, Place> {
    let allowed = "s3://bucket[/prefix], or https://host[:port][/path] to which files are PUT";
    Kind::of_text(allowed, |text| {
        let parts = Parts::of(text, &["s3", "https", "http"])?;
        let path = plain_path(&parts)?;
        match parts.scheme {
            "s3" if parts.port.is_some() => {
                Err(Fault::with_remedy("has a port behind the bucket", "the service's address stands in endpoint"))
            }
            "s3" => Ok(Place::Bucket { bucket: parts.host.to_owned(), prefix: path.to_owned() }),
            scheme => Ok(Place::Web(web(text, scheme, &parts))),
        }
    })
}

/// Where releases are looked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Repository {
    /// All of it, without a slash at its end; `file://` for a directory.
    pub(super) url: String,
    /// None: a directory of this machine.
    pub(super) web: Option<Web>,
}

/// `https://host[:port][/path]`, the same with `http`, or a directory of this machine.
pub(super) fn repository(base_dir: &std::path::Path) -> Kind<'_, Repository> {
    Kind::of_text("https://host[:port][/path], or the path of a directory", move |text| {
        if !text.contains("://") {
            let dir = super::files::resolve(base_dir, text)?;
            let url = std::path::absolute(&dir).ok().and_then(|dir| url::Url::from_directory_path(dir).ok());
            let url = url.ok_or_else(|| Fault::new("is no path of a directory"))?;
            return Ok(Repository { url: url.as_str().trim_end_matches('/').to_owned(), web: None });
        }
        let parts = Parts::of(text, &["https", "http"])?;
        plain_path(&parts)?;
        let web = web(text, parts.scheme, &parts);
        Ok(Repository { url: web.url.clone(), web: Some(web) })
    })
}

/// An S3 service's address.
pub(super) fn endpoint_of_s3<'a>() -> Kind<'a, Web> {
    Kind::of_text("https://host[:port], the address of the S3 service", |text| {
        let parts = Parts::of(text, &["https", "http"])?;
        match plain_path(&parts)? {
            "" => Ok(web(text, parts.scheme, &parts)),
            _ => Err(Fault::with_remedy("has a path behind the host", "bucket and prefix stand in url")),
        }
    })
}

/// Where others reach the device's own HTTPS.
pub(super) fn public<'a>() -> Kind<'a, Web> {
    Kind::of_text("https://host[:port][/path], as others reach the device", |text| {
        let parts = Parts::of(text, &["https"])?;
        plain_path(&parts)?;
        Ok(web(text, parts.scheme, &parts))
    })
}

/// A region of S3.
pub(super) fn region<'a>() -> Kind<'a, String> {
    Kind::of_text("a region such as \"eu-central-1\"", |text| match text {
        t if (1..=64).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
            Ok(t.to_owned())
        }
        _ => Err(Fault::new("is no name of a region")),
    })
}

fn web(text: &str, scheme: &str, parts: &Parts<'_>) -> Web {
    Web { tls: scheme == "https", host: parts.host.to_owned(), url: text.trim_end_matches('/').to_owned() }
}

/// What stands behind the host, without slashes at its ends.
fn plain_path<'u>(parts: &Parts<'u>) -> Result<&'u str, Fault> {
    let path = parts.rest.trim_matches('/');
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    match path.is_empty() || path.split('/').all(plain) {
        true => Ok(path),
        false => Err(Fault::with_remedy(
            "has something else than a plain path behind the host",
            "use a-z A-Z 0-9 _ - . in it, and no query: secrets go into credentials_file",
        )),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A broker's URL, read by the rules of `[mqtt]`; else what is wrong with it.
pub fn parse_broker(url: &str) -> Result<Broker, String> {
    let kind = broker();
    kind.read(&DeValue::String(url.into())).map_err(|fault| format!("{} (allowed: {})", fault.message, kind.allowed))
}

/// Host (IPv6 without brackets) and port of a camera's URL; 554, or 322 with `rtsps`, unless it says another.
pub fn endpoint(url: &str) -> Option<(String, u16)> {
    let parts = Parts::of(url, &["rtsp", "rtsps"]).ok()?;
    let usual = if parts.scheme == "rtsps" { 322 } else { 554 };
    Some((parts.host.to_owned(), parts.port.unwrap_or(usual)))
}

/// Scheme, host and port of a camera's URL: what may be logged. Some cameras want a password in the path.
pub(super) fn without_path(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            format!("{scheme}://{}", &rest[..end])
        }
        None => String::new(),
    }
}

struct Parts<'u> {
    scheme: &'u str,
    host: &'u str,
    port: Option<u16>,
    rest: &'u str,
}

impl<'u> Parts<'u> {
    fn of(url: &'u str, schemes: &[&str]) -> Result<Self, Fault> {
        // Looked for first, and in the whole URL: a password may itself have any of the characters below.
        if url.contains('@') {
            return Err(Fault::with_remedy(
                "has a user or a password in it, which would be logged",
                "put them into a file of two lines and name it in credentials_file; write an @ of the path as %40",
            ));
        }
        let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| schemes.contains(scheme)) else {
            return Err(Fault::new(format!("does not begin with {}://", schemes.join(":// or "))));
        };
        if url.contains(|c: char| c.is_control() || c == ' ') {
            return Err(Fault::new("has blanks or control characters in it"));
        }
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (host, port) = match authority.strip_prefix('[').map(|inner| inner.split_once(']')) {
            Some(Some((host, after))) => (host, after),
            Some(None) => return Err(Fault::new("has a [ without a ] in its host")),
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(digits) => Some(
                Some(digits)
                    .filter(|d| d.bytes().all(|b| b.is_ascii_digit()))
                    .and_then(|d| d.parse().ok())
                    .filter(|port| *port != 0)
                    .ok_or_else(|| Fault::new("has no port number from 1 to 65535 behind the colon"))?,
            ),
            None if port.is_empty() => None,
            None => return Err(Fault::new("has something other than a port behind the ]")),
        };
        let is_ipv6 = authority.starts_with('[');
        let named = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
        if (is_ipv6 && host.parse::<std::net::Ipv6Addr>().is_ok()) || (!is_ipv6 && named) {
            Ok(Parts { scheme, host, port, rest })
        } else {
            Err(Fault::new("has no valid host name or address"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml::de::DeValue;

    fn read_broker(url: &str) -> Result<Broker, String> {
        broker().read(&DeValue::String(url.into())).map_err(|f| f.message)
    }

    #[test]
    fn a_broker_is_host_port_and_tls() {
        let is = |tls, host: &str, port| Ok(Broker { tls, host: host.into(), port, websocket: None });
        assert_eq!(read_broker("mqtts://soc.example"), is(true, "soc.example", 8883));
        assert_eq!(read_broker("mqtt://127.0.0.1/"), is(false, "127.0.0.1", 1883));
        assert_eq!(read_broker("mqtt://[::1]:1999"), is(false, "::1", 1999));
        assert!(is(false, "::1", 1).unwrap().is_loopback() && is(false, "127.8.8.8", 1).unwrap().is_loopback());
        assert!(!is(false, "127.example", 1).unwrap().is_loopback());
        for bad in [
            "mqtts://",
            "mqtts://a:0",
            "mqtts://a:70000",
            "mqtts://a:+1",
            "mqtts://[::1",
            "mqtts://[a]",
            "tcp://a",
            "mqtts://a/topic",
            "mqtts://a b",
            "mqtts://[::1]x",
            "mqtts:a",
            "wss://a/mqtt?token=x",
            "ws://a/#x",
            "",
        ] {
            assert!(read_broker(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_websocket_has_a_path() {
        let is = |tls, port, path: &str| Ok(Broker { tls, host: "a".into(), port, websocket: Some(path.into()) });
        assert_eq!(read_broker("wss://a"), is(true, 443, "/mqtt"));
        assert_eq!(read_broker("ws://a/"), is(false, 80, "/mqtt"));
        assert_eq!(read_broker("wss://a:8443/some/where"), is(true, 8443, "/some/where"));
        assert_eq!(read_broker("wss://a/some/where").unwrap().to_string(), "a:443", "the path is not shown");
    }

    #[test]
    fn brokers_are_one_or_a_list() {
        let read = |toml: &str| {
            let table = toml::de::DeTable::parse(toml).unwrap();
            brokers().read(table.get_ref()["x"].get_ref()).map_err(|f| f.message)
        };
        let names = |toml: &str| read(toml).map(|b| b.iter().map(Broker::to_string).collect::<Vec<_>>());
        assert_eq!(names("x = 'mqtts://a'").unwrap(), ["a:8883"]);
        assert_eq!(names("x = ['mqtts://b', 'wss://a']").unwrap(), ["b:8883", "a:443"]);
        assert_eq!(names("x = []"), Err("lists 0 brokers".into()));
        assert_eq!(names("x = ['mqtts://b', 'mqtts://b:8883']"), Err("value 2 stands there twice".into()));
        assert!(names("x = ['mqtts://b', 'nonsense']").unwrap_err().starts_with("value 2 does not begin with"));
        assert!(names("x = 1").is_err());
    }

    #[test]
    fn a_camera_has_a_host_and_a_port() {
        let is = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(endpoint("rtsp://cam/1:2"), is("cam", 554));
        assert_eq!(endpoint("rtsps://cam"), is("cam", 322));
        assert_eq!(endpoint("rtsp://[fe80::1]:8554?x"), is("fe80::1", 8554));
        assert_eq!(endpoint("http://cam"), None);
    }

    #[test]
    fn only_what_may_be_logged_is_kept() {
        assert_eq!(without_path("rtsp://cam:554/user=a_password=b?x"), "rtsp://cam:554");
        assert_eq!(without_path("rtsp://cam"), "rtsp://cam");
    }
}
