//! Why there is no connection: named so that a person can act on it, with how soon to try again.

use std::error::Error;
use std::io;
use std::time::Duration;

use rumqttc::{ConnectReturnCode, ConnectionError, StateError};

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// What the device would connect with cannot be read, or is nothing to connect with.
    #[error("could not use the files that [mqtt] names")]
    Files {
        /// Which, and why.
        source: Cause,
    },
    /// No way to it.
    #[error("could not reach the broker at {broker}")]
    Unreachable {
        /// Host and port.
        broker: String,
        /// What the network said.
        source: Cause,
    },
    /// One side does not accept the other's certificates, or one of them speaks no TLS.
    #[error("could not agree on TLS with the broker at {broker}")]
    Tls {
        /// Host and port.
        broker: String,
        /// Whose certificate, and what is wrong with it.
        source: Cause,
        /// How soon to try again.
        pace: Pace,
        /// The broker has refused, and not this device.
        by_broker: bool,
    },
    /// The broker answered, and refused the connection or what makes it worth having.
    #[error("the broker at {broker} refused the connection: {why}")]
    Refused {
        /// Host and port.
        broker: String,
        /// Its reason code, in words.
        why: String,
        /// How soon to ask again.
        pace: Pace,
    },
    /// It was there and is gone.
    #[error("lost the connection to the broker at {broker}")]
    Lost {
        /// Host and port.
        broker: String,
        /// What the network or the broker said.
        source: Cause,
    },
    /// The connection stands but nothing is acknowledged.
    #[error("the broker at {broker} has acknowledged nothing for {} s", silence.as_secs())]
    Silent {
        /// Host and port.
        broker: String,
        /// For how long.
        silence: Duration,
    },
    /// Another client has connected under the device's name.
    #[error("another client has connected to the broker at {broker} as {client:?}: two devices with one id?")]
    TakenOver {
        /// Host and port.
        broker: String,
        /// The name.
        client: String,
    },
}

/// What a library said, in words.
pub type Cause = Box<dyn Error + Send + Sync>;

/// How soon to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// It may pass by itself.
    Soon,
    /// Somebody must act; asking often would only fill the broker's log.
    Slowly,
}

impl SessionError {
    /// Whether it is the broker's word on who the device says it is.
    pub fn is_of_our_certificate(&self) -> bool {
        match self {
            SessionError::Tls { by_broker, .. } => *by_broker,
            SessionError::Refused { pace, .. } => *pace == Pace::Slowly,
            _ => false,
        }
    }

    /// How soon to try again.
    pub fn pace(&self) -> Pace {
        match self {
            SessionError::Refused { pace, .. } | SessionError::Tls { pace, .. } => *pace,
            SessionError::Files { .. } | SessionError::TakenOver { .. } => Pace::Slowly,
            SessionError::Unreachable { .. } | SessionError::Lost { .. } | SessionError::Silent { .. } => Pace::Soon,
        }
    }
}

/// A reason code in words, and how soon to ask again.
pub(super) fn refusal(code: ConnectReturnCode) -> (String, Pace) {
    use ConnectReturnCode as C;
    let (why, pace) = match code {
        C::BadUserNamePassword => ("wrong user name or password", Pace::Slowly),
        C::NotAuthorized => ("not authorised: wrong user name or password, or no right to connect", Pace::Slowly),
        C::BadClientId | C::ClientIdentifierNotValid => ("it does not accept the device's name", Pace::Slowly),
        C::Banned => ("the device is banned", Pace::Slowly),
        C::RefusedProtocolVersion | C::UnsupportedProtocolVersion => ("it does not speak MQTT 5", Pace::Slowly),
        C::RetainNotSupported => ("it does not retain messages", Pace::Slowly),
        C::ServerUnavailable | C::ServiceUnavailable => ("it is unavailable", Pace::Soon),
        C::ServerBusy => ("it is busy", Pace::Soon),
        C::ConnectionRateExceeded => ("too many connections in a short time", Pace::Slowly),
        other => return (format!("{other:?}"), Pace::Slowly),
    };
    (why.to_owned(), pace)
}

/// The network's own error, out of the several wrappings in which the library hands it on.
pub(super) fn network_error(e: ConnectionError) -> Result<io::Error, ConnectionError> {
    match e {
        ConnectionError::Io(e)
        | ConnectionError::MqttState(StateError::Io(e) | StateError::Deserialization(rumqttc::Error::Io(e))) => Ok(e),
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            Ok(io::Error::new(io::ErrorKind::ConnectionAborted, "it was closed at the other end"))
        }
        e => Err(e),
    }
}

/// The library's errors print their sources already; as a cause they are one text without further sources.
pub(super) fn words(e: &dyn Error) -> Cause {
    e.to_string().into()
}
