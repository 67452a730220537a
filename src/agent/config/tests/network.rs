//! `[upload]`, `[http]` and `[metrics]`.

use super::*;

const S3: &str = "[upload]\npolicy = \"always\"\nurl = \"s3://clips/a/b\"\ncredentials_file = \"upload.credentials\"\n";

#[test]
fn clips_stay_unless_the_policy_lets_them_go() {
    let site = Site::new();
    let quiet = site.parse(&with("")).unwrap();
    assert_eq!((quiet.upload, quiet.metrics), (None, None));
    let default = Http {
        listen: None,
        certificate: None,
        public_url: None,
        link_valid: Duration::from_secs(3600),
        links_in_alerts: false,
    };
    assert_eq!(quiet.http, default);
    let never = site.parse(&with(&S3.replace("always", "never"))).unwrap();
    assert_eq!(never.upload, None);
    let bucket = |endpoint: Option<&str>, region: &str| UploadTarget::S3 {
        bucket: "clips".into(),
        prefix: "a/b".into(),
        endpoint: endpoint.map(String::from),
        region: region.into(),
    };
    let always = site.parse(&with(S3)).unwrap().upload.unwrap();
    assert_eq!((always.policy, always.part_bytes), (UploadPolicy::Always, 8_000_000));
    assert_eq!(always.target, bucket(None, "us-east-1"));
    assert!(!format!("{always:?}").contains(PASSWORD));
    let more = "endpoint = \"https://minio.example:9000/\"\nregion = \"eu-1\"\nlimit_kbps = 800\npart_mb = 6\n\
                ca_file = \"soc-ca.pem\"\nschedule = \"nights\"\n[schedule.nights]\narmed = [\"22:00-05:00\"]\n";
    let more = site.parse(&with(&format!("{S3}{more}"))).unwrap().upload.unwrap();
    assert_eq!(more.target, bucket(Some("https://minio.example:9000"), "eu-1"));
    assert_eq!((more.limit_bytes_per_s, more.part_bytes), (Some(100_000), 6_000_000));
    assert_eq!((more.ca_pem, more.schedule.unwrap().name), (Some(CERTIFICATE.into()), "nights".into()));
    let web = site.parse(&with("[upload]\npolicy = \"on_request\"\nurl = \"https://dav.example/clips/\"\n")).unwrap();
    let web = web.upload.unwrap();
    assert_eq!(
        (web.policy, web.target),
        (UploadPolicy::OnRequest, UploadTarget::Http { url: "https://dav.example/clips".into() })
    );
}

#[test]
fn what_cannot_be_sent_or_should_not_is_refused() {
    let site = Site::new();
    let web = |rest: &str| format!("[upload]\npolicy = \"always\"\n{rest}\n");
    for (text, key, says) in [
        (web(""), "upload.url", "is missing, and policy is \"always\""),
        (web("url = \"s3://clips\""), "upload.credentials_file", "s3:// needs it"),
        (web("url = \"https://dav.example?token=x\""), "upload.url", "plain path"),
        (web("url = \"https://dav.example/../x\""), "upload.url", "plain path"),
        (web("url = \"https://me:secret@dav.example\""), "upload.url", "a user or a password"),
        (web("url = \"ftp://dav.example\""), "upload.url", "does not begin with"),
        (web("url = \"http://dav.example\""), "upload.url", "unencrypted"),
        (web("url = \"https://dav.example\"\nregion = \"x\""), "upload.region", "goes with s3:// only"),
        (web("url = \"http://127.0.0.1\"\nca_file = \"soc-ca.pem\""), "upload.ca_file", "no meaning"),
        (format!("{S3}endpoint = \"http://minio.example:9000\""), "upload.endpoint", "unencrypted"),
        (format!("{S3}endpoint = \"https://minio.example/x\""), "upload.endpoint", "has a path"),
        (format!("{S3}part_mb = 5"), "upload.part_mb", "5 is too small"),
        (format!("{S3}limit_kbps = 7"), "upload.limit_kbps", "7 is too small"),
        (format!("{S3}schedule = \"nihgts\""), "upload.schedule", "there is no section [schedule.nihgts]"),
        (S3.replace("always", "allways"), "upload.policy", "\"allways\" is not known"),
        ("[http]\nlisten = \"8443\"".into(), "http.listen", "no address with a port"),
        ("[http]\nlisten = \"0.0.0.0:0\"".into(), "http.listen", "has port 0"),
        ("[http]\nlisten = \"[::]:1\"\ncert_file = \"device.pem\"".into(), "http.cert_file", "stands without key_file"),
        ("[http]\nlinks_in_alerts = true".into(), "http.links_in_alerts", "nothing listens"),
        ("[http]\npublic_url = \"https://a\"".into(), "http.public_url", "nothing listens"),
        ("[http]\nlink_valid_s = 9".into(), "http.link_valid_s", "9 is too small"),
        ("[metrics]\nlisten = true".into(), "metrics.listen", "not text in quotes"),
    ] {
        let problem = site.problem(&with(&text));
        assert!(problem.key == key && problem.message.contains(says), "{text}\n{problem}");
        assert!(!problem.to_string().contains("secret@"), "{problem}");
    }
    let allowed = web("url = \"http://dav.example\"\nallow_plaintext = true");
    assert!(site.parse(&with(&allowed)).is_ok());
    let misplaced = site.problem(&with(&format!("{S3}endpoint = \"http://minio.example\"")));
    assert!(misplaced.remedy.contains("allow_plaintext = true"), "{misplaced}");
}

#[test]
fn a_reload_names_what_needs_a_restart() {
    let site = Site::new();
    let old = site.parse(&with(S3)).unwrap();
    let new = S3.replace("always", "on_request").replace("clips/a", "other/a");
    let new = site
        .parse(&with(&format!("{new}limit_kbps = 800\n[http]\nlisten = \"[::1]:1\"\n[metrics]\nlisten = \"[::1]:2\"")));
    let shown: Vec<String> = old.diff(&new.unwrap()).iter().map(Change::to_string).collect();
    let keys = ["upload.policy", "upload.url", "upload.limit_kbps", "http.listen", "metrics.listen"];
    assert_eq!(shown, keys.map(|key| format!("{key}: needs a restart")));
    let none = site.parse(&with("")).unwrap();
    assert_eq!(old.diff(&none), [Change { key: "upload.policy".into(), applies: Applies::AtRestart }]);
}
