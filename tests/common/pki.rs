//! A certificate authority of a test, and what it has signed: valid now, not any more, not yet, or revoked.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};
use vedette::agent::config::{ClientFiles, MqttTls};
use vedette::base::clock::{Clock, SystemClock};

/// From when to when a certificate is valid, in days from now.
pub type Days = (i64, i64);

/// Valid now.
pub const NOW: Days = (-1, 2);

/// An authority.
pub struct Pki {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
    /// What it has signed last under each file's name.
    serials: Mutex<(u64, BTreeMap<String, u64>)>,
}

impl Pki {
    /// An authority, a broker (`server`) for 127.0.0.1, and the consumers of the shipped access rules.
    pub fn new() -> Pki {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let key = KeyPair::generate().expect("a key");
        let mut params = params("An authority of a test", NOW, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        std::fs::write(dir.path().join("ca.crt"), params.self_signed(&key).expect("a certificate").pem())
            .expect("a writable directory");
        let pki = Pki { dir, issuer: Issuer::new(params, key), serials: Mutex::new((1, BTreeMap::new())) };
        pki.broker(NOW);
        pki.issue("soc", "soc", NOW);
        pki.issue("monitor", "monitor", NOW);
        pki
    }

    /// Another certificate of the broker's.
    pub fn broker(&self, valid: Days) {
        self.issue("server", "broker", valid);
    }

    /// A device's certificate and key, for a broker user; the files are replaced if it has them already.
    pub fn device(&self, user: &str, valid: Days) -> ClientFiles {
        let name = user.replace('/', "-");
        self.issue(&name, user, valid);
        ClientFiles { cert: self.file(&format!("{name}.crt")), key: self.file(&format!("{name}.key")) }
    }

    /// `[mqtt]`'s TLS of a device with these files.
    pub fn tls(&self, client: Option<ClientFiles>) -> MqttTls {
        MqttTls { ca_file: self.file("ca.crt"), client, alpn: Vec::new() }
    }

    /// Writes a list of revoked certificates, on which the devices of these users stand.
    pub fn revoke(&self, users: &[&str]) -> PathBuf {
        let serials = self.serials.lock().expect("nobody panics under it");
        let revoked = users.iter().map(|user| RevokedCertParams {
            serial_number: SerialNumber::from(serials.1[&user.replace('/', "-")]),
            revocation_time: in_days(0),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: in_days(-1),
            next_update: in_days(2),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.file("crl.pem");
        let list = list.signed_by(&self.issuer).and_then(|list| list.pem()).expect("a list");
        std::fs::write(&path, list).expect("a writable directory");
        path
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file of it, such as `ca.crt`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The content of a file of it.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).expect("a file of the authority")
    }

    fn issue(&self, name: &str, common_name: &str, valid: Days) {
        let mut serials = self.serials.lock().expect("nobody panics under it");
        serials.0 += 1;
        let serial = serials.0;
        serials.1.insert(name.to_owned(), serial);
        let key = KeyPair::generate().expect("a key");
        let mut params = params(common_name, valid, serial);
        if name == "server" {
            params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        }
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(self.file(&format!("{name}.crt")), certificate.pem()).expect("a writable directory");
        write_private(&self.file(&format!("{name}.key")), &key.serialize_pem());
    }
}

/// Writes what only its owner may read.
pub fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a writable directory");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("our own file");
}

fn params(common_name: &str, (from, to): Days, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    (params.not_before, params.not_after) = (in_days(from), in_days(to));
    params.serial_number = Some(SerialNumber::from(serial));
    params
}

fn in_days(days: i64) -> OffsetDateTime {
    let now = SystemClock::new().wall().unix_ms() / 1000;
    OffsetDateTime::from_unix_timestamp(now).expect("a date of our time") + Duration::days(days)
}
