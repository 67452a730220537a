use std::path::Path;
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use age::secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;

use super::authority::{Authority, AuthorityError, Subject};
use super::office::{DAY, Lives, Office, OfficeError, Surroundings};
use super::registry::{Purpose, Registry, Standing};
use super::request::{Request, RequestError};
use super::secret_key::KeyFileError;
use crate::agent::identity::bundle::{Bundle, BundleError};
use crate::agent::identity::key::PrivateKey;
use crate::agent::identity::papers::{self, Paper};
use crate::agent::identity::provision::{self, Places};
use crate::agent::identity::renewal::{Came, Identity, InstallError, Shown};
use crate::base::clock::{Clock, ManualClock, SystemClock, Wall};
use crate::base::digest;
use crate::contract::identity::IdentityState;

fn secret(text: &str) -> SecretString {
    SecretString::from(text.to_owned())
}

/// The same for all of a test.
fn now() -> Wall {
    static NOW: LazyLock<Wall> =
        // Certificates know whole seconds.
        LazyLock::new(|| Wall::from_unix_ms(SystemClock::new().wall().unix_ms() / 1000 * 1000));
    *NOW
}

/// An office with an issuing authority below its root.
fn office() -> (TempDir, Office) {
    let dir = tempfile::tempdir().unwrap();
    let authority =
        Authority::init(dir.path(), "A fleet of a test", &secret("root horse"), Some(&secret("issuing horse")), now());
    let authority = authority.unwrap();
    let signer = authority.unlock(&secret("issuing horse")).unwrap();
    (dir, Office::new(authority, signer, Lives::default()))
}

fn surroundings() -> Surroundings {
    Surroundings {
        groups: vec!["north".into()],
        brokers: vec!["mqtts://broker.example".into()],
        repository: Some(("https://models.example".into(), r#"{"signed": {"_type": "root"}}"#.into())),
        ..Surroundings::default()
    }
}

fn openssl(dir: &Path, args: &[&str]) -> (bool, String) {
    let done = Command::new("openssl").current_dir(dir).args(args).output().expect("openssl is there");
    (done.status.success(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
}

fn registry(office: &Office) -> Registry {
    Registry::read(office.authority.dir()).unwrap()
}

#[test]
fn an_authority_is_made_once_and_opens_with_its_passphrase() {
    let (dir, office) = office();
    let again = Authority::init(dir.path(), "Another", &secret("root horse"), None, now());
    assert!(matches!(again, Err(AuthorityError::Exists(_))));
    let authority = Authority::open(dir.path()).unwrap();
    let Err(AuthorityError::Key(wrong)) = authority.unlock(&secret("another horse")) else { panic!("it opens") };
    assert!(matches!(wrong, KeyFileError::Passphrase(_)) && !wrong.to_string().contains("another"));
    for key in ["ca.key", "issuing.key"] {
        let mode = std::os::unix::fs::PermissionsExt::mode(&dir.path().join(key).metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let (read, said) = openssl(dir.path(), &["pkey", "-noout", "-text", "-passin", "pass:root horse", "-in", "ca.key"]);
    assert!(read && said.contains("P-256"), "{said}");
    // The keys of one are not those of the other.
    std::fs::copy(dir.path().join("ca.key"), dir.path().join("issuing.key")).unwrap();
    assert!(matches!(office.authority.unlock(&secret("root horse")), Err(AuthorityError::Pair { .. })));
    assert!(matches!(Authority::open(Path::new("/nowhere")), Err(AuthorityError::Read { .. })));
}

#[test]
fn what_is_signed_is_what_openssl_and_rustls_want_of_a_client() {
    let (dir, office) = office();
    let key = PrivateKey::generate().unwrap();
    let answer = office.answer(&key.request("depot/gate-1").unwrap(), surroundings(), now()).unwrap();
    let paper = answer.check(Some(&key), now()).unwrap();
    assert_eq!((paper.name.as_str(), paper.serial.len()), ("depot/gate-1", 32));
    assert_eq!(paper.left(now()), 90 * DAY);
    assert_eq!(paper.lifetime(), 91 * DAY, "a day for wrong clocks");
    std::fs::write(dir.path().join("device.crt"), &answer.certificate_pem).unwrap();
    let (_, said) = openssl(dir.path(), &["x509", "-noout", "-text", "-in", "device.crt"]);
    for wanted in [
        "Version: 3",
        "CN = depot/gate-1",
        "URI:urn:vedette:device:depot:gate-1",
        "TLS Web Client Authentication",
        "CA:FALSE",
        "Digital Signature",
        "Authority Key Identifier",
    ] {
        assert!(said.replace("CN=", "CN = ").contains(wanted), "{wanted}: {said}");
    }
    let verify = ["verify", "-purpose", "sslclient", "-CAfile", "ca.crt", "-untrusted", "issuing.crt", "device.crt"];
    let (holds, said) = openssl(dir.path(), &verify);
    assert!(holds, "{said}");
    let holds = |name: &str, at: Wall| papers::holds(&answer.certificate_pem, name, &office.authority.root_pem, at);
    assert!(holds("depot/gate-1", now()).is_ok());
    assert!(holds("depot/gate-2", now()).unwrap_err().to_string().contains("depot/gate-1"));
    assert!(holds("depot/gate-1", now() + 91 * DAY).unwrap_err().to_string().contains("it expired"));
    assert!(holds("depot/gate-1", now() - 2 * DAY).unwrap_err().to_string().contains("is the clock wrong"));
    let (_other_dir, other) = self::office();
    let foreign = papers::holds(&answer.certificate_pem, "depot/gate-1", &other.authority.root_pem, now());
    assert!(foreign.unwrap_err().to_string().contains("has not signed it"));
    // A broker's certificate is none of a client, nor the other way round.
    let (server, key) =
        office.issue(&Subject::Server(vec!["127.0.0.1".into(), "b.example".into()]), DAY, now()).unwrap();
    assert!(papers::holds(&server, "broker", &office.authority.root_pem, now()).is_err());
    assert!(key.expose_secret().contains("PRIVATE KEY"));
    assert!(matches!(
        office.issue(&Subject::Server(vec!["a b".into()]), DAY, now()),
        Err(OfficeError::Authority(AuthorityError::Host(_)))
    ));
    let outlives = office.issue(&Subject::Client("soc".into()), 4000 * DAY, now());
    assert!(matches!(outlives, Err(OfficeError::Authority(AuthorityError::Outlives(_)))));
    let long = format!("depot/{}", "x".repeat(60));
    let long = office.bundle(&long, surroundings(), now());
    assert!(matches!(long, Err(OfficeError::Authority(AuthorityError::LongName(_)))));
    assert!(matches!(office.bundle("depot", surroundings(), now()), Err(OfficeError::Name(_))));
}

#[test]
fn a_bundle_opens_with_its_passphrase_alone_and_says_no_secret() {
    let (_dir, office) = office();
    let bundle = office.bundle("depot/gate-1", surroundings(), now()).unwrap();
    let sealed = bundle.seal(secret("bundle horse")).unwrap();
    assert!(sealed.starts_with(b"age-encryption.org/v1\n-> scrypt "));
    let opened = Bundle::open(&sealed, secret("bundle horse")).unwrap();
    assert_eq!(opened.json(), bundle.json());
    assert_eq!(opened.check(None, now()).unwrap().left(now()), 7 * DAY);
    assert!(!format!("{opened:?}").contains("PRIVATE KEY"));
    let wrong = Bundle::open(&sealed, secret("another horse")).unwrap_err();
    assert!(matches!(wrong, BundleError::Passphrase), "{wrong}");
    let mut damaged = sealed.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(Bundle::open(&damaged, secret("bundle horse")).is_err());
    assert!(Bundle::open(b"noise", secret("bundle horse")).unwrap_err().to_string().contains("no provisioning bundle"));
    assert!(matches!(Bundle::open(&vec![0; (1 << 20) + 1], secret("x")), Err(BundleError::TooLarge)));
    let late = opened.check(None, now() + 7 * DAY).unwrap_err();
    assert!(matches!(late, BundleError::Expired { .. }), "{late}");

    let json = bundle.json();
    let with = |from: &str, to: &str| {
        assert!(json.contains(from), "{from}");
        Bundle::parse(json.replacen(from, to, 1).as_bytes())
    };
    assert!(matches!(with("\"vedette_bundle\": 1", "\"vedette_bundle\": 2"), Err(BundleError::Version(2))));
    assert!(with("\"site\"", "\"sight\"").unwrap_err().to_string().contains("sight"));
    let other = with("\"device\": \"gate-1\"", "\"device\": \"gate-2\"").unwrap().check(None, now()).unwrap_err();
    assert!(other.to_string().contains("depot/gate-2"), "{other}");
    assert!(with("\"device\": \"gate-1\"", "\"device\": \"../gate\"").unwrap().check(None, now()).is_err());
    let key = PrivateKey::generate().unwrap();
    let mut foreign = Bundle::parse(json.as_bytes()).unwrap();
    foreign.private_key_pem = Some(secret(key.pem()));
    assert!(foreign.check(None, now()).unwrap_err().to_string().contains("for another key"));
    foreign.private_key_pem = Some(secret("PRIVATE"));
    let no_key = foreign.check(None, now()).unwrap_err().to_string();
    assert!(no_key.contains("no private key") && !no_key.contains("PRIVATE"), "{no_key}");
}

#[test]
fn a_request_is_its_own_devices_and_new_and_answered_once() {
    let (_dir, office) = office();
    office.bundle("depot/gate-1", surroundings(), now()).unwrap();
    let key = PrivateKey::generate().unwrap();
    let request = key.request("depot/gate-1").unwrap();
    let first = office.renew("depot/gate-1", &request, now()).unwrap();
    assert_eq!(Paper::read(&first.pem).unwrap().key, key.digest().unwrap());
    assert_eq!(office.renew("depot/gate-1", &request, now() + DAY).unwrap(), first, "the same again");
    assert!(matches!(office.renew("depot/gate-2", &request, now()), Err(OfficeError::OtherName { .. })));
    let stranger = PrivateKey::generate().unwrap().request("depot/gate-9").unwrap();
    assert!(matches!(office.renew("depot/gate-9", &stranger, now()), Err(OfficeError::Unknown(_))));
    // Another request for the same key: its signature is another.
    let again = key.request("depot/gate-1").unwrap();
    if again != request {
        assert!(matches!(office.renew("depot/gate-1", &again, now()), Err(OfficeError::OldKey)));
        assert!(matches!(office.answer(&again, surroundings(), now()), Err(OfficeError::OldKey)));
    }
    let body: String = request.lines().filter(|l| !l.starts_with("---")).collect();
    let flipped = request.replacen(&body[40..44], "AAAA", 1);
    assert!(matches!(Request::read(&flipped), Err(RequestError::Malformed(_))));
    assert!(matches!(Request::read("noise"), Err(RequestError::Malformed(_))));
    assert!(matches!(Request::read(&"x".repeat(9000)), Err(RequestError::TooLarge)));
    let mut given = 1;
    let refused = loop {
        let request = PrivateKey::generate().unwrap().request("depot/gate-1").unwrap();
        match office.renew("depot/gate-1", &request, now()) {
            Ok(_) => given += 1,
            Err(e) => break e,
        }
    };
    // The bundle's counts too: nobody came with it either.
    assert!(matches!(refused, OfficeError::TooMany(_)) && given == 4, "{given}: {refused}");
}

/// Whether openssl lets this certificate in by the authority's revocation list.
fn is_let_in(office: &Office, pem: &str) -> bool {
    let dir = office.authority.dir();
    std::fs::write(dir.join("asked.crt"), pem).unwrap();
    let args = "verify -crl_check -CAfile ca.crt -untrusted issuing.crt -CRLfile crl.pem asked.crt";
    let (holds, said) = openssl(dir, &args.split(' ').collect::<Vec<_>>());
    assert!(holds || said.contains("certificate revoked"), "{said}");
    holds
}

#[test]
fn what_is_withdrawn_stands_on_the_revocation_list_until_it_expires() {
    let (dir, office) = office();
    let bundle = office.bundle("depot/gate-1", surroundings(), now()).unwrap();
    assert!(office.renew_crl(false, now()).unwrap(), "there was none");
    assert!(!office.renew_crl(false, now()).unwrap(), "it is new");
    assert!(is_let_in(&office, &bundle.certificate_pem));
    let request = || PrivateKey::generate().unwrap().request("depot/gate-1").unwrap();
    let own = office.renew("depot/gate-1", &request(), now()).unwrap();
    assert!(is_let_in(&office, &bundle.certificate_pem), "until the device has come with its own");
    assert!(office.settle("depot/gate-1", &own.serial, now()).unwrap());
    assert!(!office.settle("depot/gate-1", &own.serial, now()).unwrap(), "once");
    assert!(!is_let_in(&office, &bundle.certificate_pem));
    assert!(is_let_in(&office, &own.pem));
    let registry = self::registry(&office);
    let holder = &registry.devices["depot/gate-1"];
    assert_eq!(holder.current().unwrap().serial, own.serial);
    assert_eq!(holder.certificates[0].purpose, Purpose::Bundle);
    assert_eq!(holder.certificates[0].standing, Standing::Superseded);
    // A number that is not its own settles nothing.
    assert!(!office.settle("depot/gate-1", "abc", now()).unwrap());
    assert!(matches!(office.settle("depot/gate-9", &own.serial, now()), Err(OfficeError::Unknown(_))));

    assert_eq!(office.revoke("depot/gate-1", now()).unwrap(), 1);
    assert!(!is_let_in(&office, &own.pem));
    assert!(matches!(office.renew("depot/gate-1", &request(), now()), Err(OfficeError::Revoked(_))));
    assert!(matches!(office.revoke("depot/gate-9", now()), Err(OfficeError::Unknown(_))));
    // Enrolled anew it is let in, and what it had is not.
    let anew = office.bundle("depot/gate-1", surroundings(), now()).unwrap();
    assert!(is_let_in(&office, &anew.certificate_pem) && !is_let_in(&office, &own.pem));
    let another = office.bundle("depot/gate-1", surroundings(), now()).unwrap();
    assert!(!is_let_in(&office, &anew.certificate_pem), "nobody had come with it when another was given out");
    assert!(is_let_in(&office, &another.certificate_pem));

    let (_, said) = openssl(dir.path(), &["crl", "-noout", "-text", "-in", "crl.pem"]);
    assert_eq!(said.matches("Serial Number:").count(), 3, "{said}");
    assert!(office.renew_crl(false, now() + 60 * DAY).unwrap(), "past half of its life");
    office.renew_crl(true, now() + 120 * DAY).unwrap();
    let (_, said) = openssl(dir.path(), &["crl", "-noout", "-text", "-in", "crl.pem"]);
    assert_eq!(said.matches("Serial Number:").count(), 0, "what has expired needs no list: {said}");
    let number = self::registry(&office).crl_number;
    assert!(said.contains("CRL Number") && number > 5);
}

#[test]
fn a_damaged_registry_is_not_taken_for_an_empty_one_and_two_writers_do_each_other_no_harm() {
    let (dir, office) = office();
    let offices = std::thread::scope(|scope| {
        let each: Vec<_> = (0..8)
            .map(|n| {
                let office = &office;
                scope.spawn(move || office.bundle(&format!("depot/gate-{n}"), surroundings(), now()).map(|b| b.name()))
            })
            .collect();
        each.into_iter().map(|t| t.join().unwrap().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(offices.len(), 8);
    assert_eq!(registry(&office).devices.len(), 8);
    std::fs::write(dir.path().join("registry.json"), "{").unwrap();
    let damaged = office.bundle("depot/gate-1", surroundings(), now()).unwrap_err();
    assert!(damaged.to_string().contains("restore it"), "{damaged}");
}

#[test]
fn an_authority_may_do_without_an_issuing_one() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::init(dir.path(), "One", &secret("root horse"), None, now()).unwrap();
    let signer = Authority::open(dir.path()).unwrap().unlock(&secret("root horse")).unwrap();
    let lives = Lives { bundle: Duration::from_secs(60), ..Lives::default() };
    let office = Office::new(authority, signer, lives);
    let bundle = office.bundle("depot/gate-1", Surroundings { repository: None, ..surroundings() }, now()).unwrap();
    assert_eq!(bundle.certificate_pem.matches("BEGIN").count(), 1);
    assert!(bundle.check(None, now()).is_ok());
}

#[test]
fn a_device_takes_the_certificate_that_it_asked_for_and_no_other() {
    let (_dir, office) = office();
    let device = tempfile::tempdir().unwrap();
    let (config_dir, state_dir) = (device.path().join("etc"), device.path().join("state"));
    let places = Places { config_dir, state_dir: state_dir.clone(), owner: None };
    let bundle = office.bundle("depot/gate-1", surroundings(), now()).unwrap();
    provision::provision(&places, &bundle, false, now()).unwrap();
    let clock = Arc::new(ManualClock::new(now()));
    let open = || Identity::open(&state_dir, 0.33, clock.clone()).unwrap().unwrap();
    let identity = open();
    let travelled = identity.status();
    assert_eq!((travelled.state, travelled.travelled), (IdentityState::Settled, true));
    assert!(identity.install(&bundle.certificate_pem).is_ok(), "the same again changes nothing");
    let other = PrivateKey::generate().unwrap().request("depot/gate-1").unwrap();
    let other = office.renew("depot/gate-1", &other, now()).unwrap();
    assert!(matches!(identity.install(&other.pem), Err(InstallError::NotAsked)));

    identity.look(None).unwrap();
    let request = identity.status().request_pem.unwrap();
    assert_eq!(open().status().request_pem.as_ref(), Some(&request), "also after a restart");
    assert!(matches!(identity.install(&other.pem), Err(InstallError::OtherKey)));
    let (_foreign_dir, foreign) = self::office();
    foreign.bundle("depot/gate-1", surroundings(), now()).unwrap();
    let stranger = foreign.renew("depot/gate-1", &request, now()).unwrap();
    let refused = identity.install(&stranger.pem).unwrap_err();
    assert!(refused.to_string().contains("has not signed it"), "{refused}");
    let good = office.renew("depot/gate-1", &request, now()).unwrap();
    clock.step_wall(now() + 91 * DAY);
    let late = identity.install(&good.pem).unwrap_err();
    assert!(late.to_string().contains("it expired"), "{late}");
    clock.step_wall(now());
    assert_eq!(identity.install(&good.pem).unwrap().serial, good.serial);

    let switching = identity.status();
    assert_eq!((switching.state, &switching.serial), (IdentityState::Switching, &travelled.serial));
    let shown = |pem: &str, came| Shown { certificate: digest::of_bytes(pem.as_bytes()), came };
    identity.heed(&shown(&bundle.certificate_pem, Came::Accepted)).unwrap();
    assert_eq!(open().status().state, IdentityState::Switching, "it was the old one that was accepted");
    identity.heed(&shown(&good.pem, Came::Refused("revoked".into()))).unwrap();
    let back = identity.status();
    assert_eq!((back.state, &back.serial, back.travelled), (IdentityState::Settled, &travelled.serial, true));
    assert!(back.trouble.unwrap().contains("revoked"));
    identity.look(Some(now())).unwrap();
    assert_eq!(identity.status().state, IdentityState::Settled, "not at once");
    identity.look(Some(now() + DAY)).unwrap();
    let request = identity.status().request_pem.unwrap();
    let next = office.renew("depot/gate-1", &request, now()).unwrap();
    identity.install(&next.pem).unwrap();
    let identity = open();
    identity.heed(&shown(&next.pem, Came::Accepted)).unwrap();
    let settled = identity.status();
    assert_eq!((settled.state, settled.serial, settled.travelled), (IdentityState::Settled, next.serial, false));
    assert!(settled.trouble.is_none() && settled.request_pem.is_none());
}
