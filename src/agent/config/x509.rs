//! What an X.509 certificate says of itself that is good to know before it is shown to anybody: its version, and from when
//! to when it is valid (RFC 5280, section 4.1).
//!
//! What belongs here: reading so far and no further. What does not: judging signatures, names or uses, which is TLS's.
//!
//! Invariant: whatever the bytes are, reading ends and does not panic.

use crate::base::clock::Wall;

/// What is said of a certificate of version 1 to whoever has to make another.
pub const IS_VERSION_1: &str = "is an X.509 version 1 certificate, which TLS libraries refuse: make a version 3 one \
     (openssl x509 -req needs -extfile)";

/// See the module's doc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    /// 1 to 3.
    pub version: u8,
    /// Valid from then on.
    pub not_before: Wall,
    /// And until then.
    pub not_after: Wall,
}

impl Certificate {
    /// Reads one in DER. None: it is none, or one of a form that this does not know.
    pub fn read(der: &[u8]) -> Option<Certificate> {
        let mut certificate = Der(der).within(SEQUENCE)?;
        let mut signed = certificate.within(SEQUENCE)?;
        let version = match signed.within(EXPLICIT_0) {
            None => 0,
            Some(mut version) => *version.next(INTEGER)?.first()?,
        };
        signed.next(INTEGER)?; // Serial number.
        signed.next(SEQUENCE)?; // Signature algorithm.
        signed.next(SEQUENCE)?; // Issuer.
        let mut validity = signed.within(SEQUENCE)?;
        Some(Certificate {
            version: version.checked_add(1)?,
            not_before: validity.time()?,
            not_after: validity.time()?,
        })
    }
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const EXPLICIT_0: u8 = 0xa0;

/// What is left to read of a series of values in DER (ITU-T X.690).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next value if it is of this kind; it is passed over only then.
    fn next(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, rest) = self.0.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (length, rest) = match length {
            0..=0x7f => (usize::from(*length), rest),
            // So many bytes of length follow; no certificate is larger than three can say.
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(length - 0x80))?;
                (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        (*found == tag).then(|| {
            self.0 = rest;
            content
        })
    }

    fn within(&mut self, tag: u8) -> Option<Der<'a>> {
        self.next(tag).map(Der)
    }

    fn time(&mut self) -> Option<Wall> {
        let (text, century) = match self.next(UTC_TIME) {
            // Two digits: 1950 to 2049.
            Some(text) => (text, if *text.first()? < b'5' { "20" } else { "19" }),
            None => (self.next(GENERALIZED_TIME)?, ""),
        };
        let text = format!("{century}{}", std::str::from_utf8(text).ok()?);
        let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
        let at = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some(Wall::from_unix_ms(at.timestamp().as_millisecond()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    /// `openssl x509 -req -signkey` without `-extfile`.
    pub(crate) const VERSION_1: &str = "-----BEGIN CERTIFICATE-----
MIIBGDCBvwIUArfKV2pnmSbVbR00zalyTMvTUFYwCgYIKoZIzj0EAwIwDjEMMAoG
A1UEAwwDb2xkMCAXDTI2MTEyMjE3MjY1NVoYDzIxMjYxMDI5MTcyNjU1WjAOMQww
CgYDVQQDDANvbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAT06Ibn/oXWwAoG
pgeMJpZKuTI9WuTjA//Mq4W80j6kU/OWhzPi3lq9iH5xG0shuhJv8N0QPrqNfTo0
iqfubx1eMAoGCCqGSM49BAMCA0gAMEUCIQDLKrlCKY9hg6IwuLvqMDXnQnQZ/w7k
9/GMBal+xStqyAIgKQfRRpHuV/boaqDD679rh8QN2ksGoJx5IkN3uuOFnBM=
-----END CERTIFICATE-----
";

    fn read(pem: &str) -> Certificate {
        Certificate::read(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).expect("a certificate")
    }

    #[test]
    fn version_and_validity_are_read_in_both_forms_of_time() {
        let Certificate { version, not_before, not_after } = read(VERSION_1);
        assert_eq!((version, not_before.rfc3339()), (1, "2026-11-22T17:26:55.000Z".into()));
        assert_eq!(not_after.rfc3339(), "2126-10-29T17:26:55.000Z");
        let mut params = rcgen::CertificateParams::default();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(1999, 1, 2), rcgen::date_time_ymd(2049, 12, 31));
        let key = rcgen::KeyPair::generate().unwrap();
        let Certificate { version, not_before, not_after } = read(&params.self_signed(&key).unwrap().pem());
        assert_eq!((version, not_before.rfc3339()), (3, "1999-01-02T00:00:00.000Z".into()));
        assert_eq!(not_after.rfc3339(), "2049-12-31T00:00:00.000Z");
    }

    proptest! {
        #[test]
        fn what_is_damaged_is_no_certificate_or_another(at in 0_usize..284, byte: u8, cut in 0_usize..284) {
            let mut der = CertificateDer::from_pem_slice(VERSION_1.as_bytes()).unwrap().to_vec();
            der[at] = byte;
            Certificate::read(&der);
            der.truncate(cut);
            Certificate::read(&der);
        }
    }
}
