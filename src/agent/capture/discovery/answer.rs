//! Questions and answers of WS-Discovery (2005/04, SOAP 1.2) with ONVIF's scopes. Pure; answers are anybody's bytes.

use std::net::IpAddr;

use roxmltree::{Document, Node, ParsingOptions};
use serde::Serialize;
use uuid::Uuid;

/// Nodes of an answer that are looked at; a real one has about fifty.
const NODES_MOST: u32 = 2_000;
/// Cameras in one answer, addresses of one camera, and characters of any text that is kept.
const MATCHES_MOST: usize = 32;
const SERVICES_MOST: usize = 8;
const TEXT_MOST: usize = 120;
/// What ONVIF's scopes begin with.
const SCOPE: &str = "onvif://www.onvif.org/";

/// A question for one type of device.
#[derive(Debug)]
pub struct Question {
    pub id: Uuid,
    pub text: String,
}

impl Question {
    /// `types`: with the prefix `dn` (ONVIF's network) or `tds` (its device service).
    pub fn new(id: Uuid, types: &str) -> Question {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
             xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
             xmlns:d=\"http://schemas.xmlsoap.org/ws/2005/04/discovery\" \
             xmlns:dn=\"http://www.onvif.org/ver10/network/wsdl\" xmlns:tds=\"http://www.onvif.org/ver10/device/wsdl\">\
             <s:Header><a:MessageID>urn:uuid:{id}</a:MessageID>\
             <a:To>urn:schemas-xmlsoap-org:ws:2005:04:discovery</a:To>\
             <a:Action>http://schemas.xmlsoap.org/ws/2005/04/discovery/Probe</a:Action></s:Header>\
             <s:Body><d:Probe><d:Types>{types}</d:Types></d:Probe></s:Body></s:Envelope>"
        );
        Question { id, text }
    }
}

/// A camera that has answered. Texts are its own, made printable and cut to 120 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkCamera {
    /// Where the answer came from.
    pub address: IpAddr,
    /// What it calls itself for good (usually a UUID); its address if it doesn't.
    pub endpoint: String,
    /// Its name.
    pub name: Option<String>,
    /// Make or model.
    pub hardware: Option<String>,
    /// Where it was told that it is.
    pub location: Vec<String>,
    /// Addresses of its ONVIF service.
    pub services: Vec<String>,
}

impl NetworkCamera {
    /// Takes in what another answer of the same camera says beside.
    pub(super) fn merge(&mut self, other: NetworkCamera) {
        self.name = self.name.take().or(other.name);
        self.hardware = self.hardware.take().or(other.hardware);
        add(&mut self.location, other.location);
        add(&mut self.services, other.services);
    }
}

/// The cameras in a datagram, if it is an answer to one of these questions.
pub fn read(datagram: &[u8], from: IpAddr, questions: &[Question]) -> Vec<NetworkCamera> {
    let Ok(text) = std::str::from_utf8(datagram) else { return Vec::new() };
    // Entities of its own are refused with the document type that would define them.
    let options = ParsingOptions { allow_dtd: false, nodes_limit: NODES_MOST, ..ParsingOptions::default() };
    let Ok(document) = Document::parse_with_options(text.trim_start_matches('\u{feff}').trim(), options) else {
        return Vec::new();
    };
    let ours = |text: &str| questions.iter().any(|q| text.trim().to_ascii_lowercase().ends_with(&q.id.to_string()));
    if !text_of(document.root(), "RelatesTo").is_some_and(ours) {
        return Vec::new();
    }
    let matches = document.descendants().filter(|n| n.has_tag_name_local("ProbeMatch"));
    matches.take(MATCHES_MOST).filter_map(|found| camera(found, from)).collect()
}

/// One match; nothing for what is no ONVIF device.
fn camera(found: Node<'_, '_>, from: IpAddr) -> Option<NetworkCamera> {
    let scopes: Vec<&str> = text_of(found, "Scopes").unwrap_or("").split_whitespace().collect();
    let types = text_of(found, "Types").unwrap_or("");
    let is_onvif = scopes.iter().any(|s| s.starts_with(SCOPE)) || types.contains("NetworkVideoTransmitter");
    let said = |what: &str| -> Vec<String> {
        let values = scopes.iter().filter_map(|s| s.strip_prefix(SCOPE)?.strip_prefix(what)?.strip_prefix('/'));
        let mut found = Vec::new();
        add(&mut found, values.map(|v| printable(&unescaped(v))).filter(|v| !v.is_empty()));
        found
    };
    let services = text_of(found, "XAddrs").unwrap_or("").split_whitespace();
    let services = services.filter(|s| s.starts_with("http://") || s.starts_with("https://")).map(printable);
    let endpoint = text_of(found, "EndpointReference").or_else(|| text_of(found, "Address")).map(printable);
    let mut camera = NetworkCamera {
        address: from,
        endpoint: endpoint.filter(|e| !e.is_empty()).unwrap_or_else(|| from.to_string()),
        name: said("name").into_iter().next(),
        hardware: said("hardware").into_iter().next(),
        location: said("location"),
        services: Vec::new(),
    };
    add(&mut camera.services, services);
    is_onvif.then_some(camera)
}

/// Adds what isn't there yet, up to a bound.
fn add(to: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    for text in more {
        if to.len() < SERVICES_MOST && !to.contains(&text) {
            to.push(text);
        }
    }
}

/// All text in the first element with this name, whatever its namespace: devices of old firmware mix them up.
fn text_of<'a>(within: Node<'a, '_>, name: &str) -> Option<&'a str> {
    let element = within.descendants().find(|n| n.has_tag_name_local(name))?;
    element.descendants().filter(Node::is_text).filter_map(|n| n.text()).map(str::trim).find(|t| !t.is_empty())
}

trait LocalName {
    fn has_tag_name_local(&self, name: &str) -> bool;
}

impl LocalName for Node<'_, '_> {
    fn has_tag_name_local(&self, name: &str) -> bool {
        self.is_element() && self.tag_name().name() == name
    }
}

/// Percent-encoding undone, as far as it is one.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *first == b'%').and_then(|d| std::str::from_utf8(d).ok());
        match digits.filter(|d| !d.starts_with('+')).and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Without control characters, and not too long.
fn printable(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(TEXT_MOST).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 17));

    fn question() -> Question {
        Question::new(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001), "dn:NetworkVideoTransmitter")
    }

    fn answer(relates_to: &Uuid, matches: &str) -> String {
        format!(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<SOAP-ENV:Envelope \
             xmlns:SOAP-ENV=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:wsa=\"urn:a\" xmlns:d=\"urn:d\">\
             <SOAP-ENV:Header><wsa:RelatesTo>uuid:{relates_to}</wsa:RelatesTo></SOAP-ENV:Header>\
             <SOAP-ENV:Body><d:ProbeMatches>{matches}</d:ProbeMatches></SOAP-ENV:Body></SOAP-ENV:Envelope>"
        )
    }

    const GATE: &str = "<d:ProbeMatch><wsa:EndpointReference><wsa:Address>urn:uuid:1419d68a-1dd2-11b2-a105-000000000000\
        </wsa:Address></wsa:EndpointReference><d:Types>dn:NetworkVideoTransmitter</d:Types><d:Scopes>\
        onvif://www.onvif.org/type/video_encoder onvif://www.onvif.org/name/North%20gate%1b%5b31m \
        onvif://www.onvif.org/hardware/XC-200 onvif://www.onvif.org/location/country/nowhere \
        onvif://www.onvif.org/location/city/harbour</d:Scopes><d:XAddrs>http://192.0.2.17/onvif/device_service \
        http://[fe80::1]/onvif/device_service file:///etc/passwd</d:XAddrs></d:ProbeMatch>";

    #[test]
    fn an_answer_tells_a_camera() {
        let question = question();
        let text = answer(&question.id, GATE);
        let found = read(text.as_bytes(), FROM, std::slice::from_ref(&question));
        let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let wanted = NetworkCamera {
            address: FROM,
            endpoint: "urn:uuid:1419d68a-1dd2-11b2-a105-000000000000".into(),
            name: Some("North gate[31m".into()),
            hardware: Some("XC-200".into()),
            location: texts(&["country/nowhere", "city/harbour"]),
            services: texts(&["http://192.0.2.17/onvif/device_service", "http://[fe80::1]/onvif/device_service"]),
        };
        assert_eq!(found, [wanted]);
    }

    #[test]
    fn what_was_not_asked_for_is_left() {
        let question = question();
        let questions = std::slice::from_ref(&question);
        let printer = GATE.replace(SCOPE, "ldap:///").replace("dn:NetworkVideoTransmitter", "wsdp:Device");
        assert_eq!(read(answer(&question.id, &printer).as_bytes(), FROM, questions), []);
        assert_eq!(read(answer(&Uuid::nil(), GATE).as_bytes(), FROM, questions), []);
        assert_eq!(read(question.text.as_bytes(), FROM, questions), [], "our own question comes back by the loop");
    }

    #[test]
    fn hostile_answers_do_nothing() {
        let question = question();
        let questions = std::slice::from_ref(&question);
        let read = |text: String| read(text.as_bytes(), FROM, questions);
        let laughs = "<!DOCTYPE x [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">]>";
        assert_eq!(read(answer(&question.id, GATE).replacen('\n', laughs, 1)), []);
        assert_eq!(read(answer(&question.id, &"<d:ProbeMatch/>".repeat(3_000))), []);
        let many = answer(&question.id, &GATE.repeat(60));
        assert_eq!(read(many).len(), MATCHES_MOST);
        let deep = format!("{}{}", "<a>".repeat(20_000), "</a>".repeat(20_000));
        assert_eq!(read(answer(&question.id, &deep)), []);
        let long = answer(&question.id, &GATE.replace("XC-200", &"x".repeat(20_000)));
        assert_eq!(read(long)[0].hardware.as_ref().map(String::len), Some(TEXT_MOST));
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(read(&bytes, FROM, &[question()]).is_empty());
        }

        #[test]
        fn any_damage_is_harmless(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
            cut in any::<prop::sample::Index>(),
        ) {
            let question = question();
            let mut bytes = answer(&question.id, GATE).into_bytes();
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(1 + cut.index(bytes.len()));
            for camera in read(&bytes, FROM, &[question]) {
                let texts = camera.name.iter().chain(&camera.hardware).chain(&camera.location).chain(&camera.services);
                for text in texts.chain([&camera.endpoint]) {
                    prop_assert!(text.chars().count() <= TEXT_MOST && !text.contains(char::is_control));
                }
            }
        }
    }
}
