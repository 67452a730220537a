//! A real Mosquitto on a free port of the loopback interface, configured from what `deploy/mosquitto` ships, and a
//! foreign consumer (`mosquitto_sub`) to read what arrives.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

use serde_json::Value;
use tempfile::TempDir;
use vedette::base::clock::{Clock, Mono, SystemClock};

use super::netns::Namespace;
use super::pki::Pki;
use super::{PATIENCE, wait_for};

const REMEDY: &str = "these tests need a real broker: apt-get install mosquitto mosquitto-clients";

/// Line by line: it would else keep to itself for long that its subscription was granted.
const SUBSCRIBER: &[&str] = &["stdbuf", "-oL", "mosquitto_sub"];

/// A broker; killed with its value.
pub struct Broker {
    /// Where it listens.
    pub port: u16,
    dir: TempDir,
    child: Option<Child>,
    environment: Vec<(String, String)>,
    /// What a command begins with that runs where it runs.
    enter: Vec<String>,
    /// What `mosquitto_sub` needs to be let in,
    subscriber_args: Vec<String>,
    /// and what `mosquitto_pub` does.
    publisher_args: Vec<String>,
}

impl Broker {
    /// `demo.conf`: no encryption, no passwords. Not started yet.
    pub fn plaintext() -> Broker {
        Broker::configured(|_, _| (), Vec::new(), Vec::new())
    }

    /// As [`Broker::plaintext`], for one user with a password.
    pub fn with_password(user: &str, password: &str) -> Broker {
        let edit = |config: &mut String, dir: &Path| {
            let file = dir.join("passwords");
            let args = ["-b", "-c", path(&file), user, password];
            output(Command::new("mosquitto_passwd").args(args));
            replace(config, "allow_anonymous true", &format!("allow_anonymous false\npassword_file {}", path(&file)));
        };
        let args = ["-u", user, "-P", password].map(String::from);
        Broker::configured(edit, args.clone().into(), args.into())
    }

    /// `mosquitto.conf` and `acl` as they are shipped, but for paths, port and log.
    pub fn production(pki: &Pki) -> Broker {
        Broker::with_certificates(pki.dir())
    }

    /// As [`Broker::production`], with the certificates of this directory: those of the authority, of the broker, of `soc` and
    /// of `monitor`.
    pub fn with_certificates(certs: &Path) -> Broker {
        let edit = |config: &mut String, dir: &Path| {
            *config = shipped("mosquitto.conf");
            replace(config, "listener 8883", "listener @PORT@ 127.0.0.1");
            replace(config, "/var/lib/mosquitto/", "@STATE_DIR@/");
            replace(config, "/etc/mosquitto/certs/ca.crt", path(&certs.join("ca.crt")));
            replace(config, "/etc/mosquitto/certs/server", path(&certs.join("server")));
            replace(config, "/etc/mosquitto/", &format!("{}/", path(dir)));
            replace(config, "log_dest syslog", "log_dest stderr\nuser @USER@");
            std::fs::write(dir.join("acl"), shipped("acl")).expect("a writable directory");
        };
        Broker::configured(edit, client_args(certs, "monitor"), client_args(certs, "soc"))
    }

    fn configured(
        edit: impl FnOnce(&mut String, &Path),
        subscriber_args: Vec<String>,
        publisher_args: Vec<String>,
    ) -> Broker {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port();
        let mut config = shipped("demo.conf");
        edit(&mut config, dir.path());
        let user = output(Command::new("id").arg("-un"));
        replace(&mut config, "@PORT@", &port.to_string());
        replace(&mut config, "@STATE_DIR@", path(dir.path()));
        replace(&mut config, "@USER@", user.trim());
        std::fs::write(dir.path().join("mosquitto.conf"), config).expect("a writable directory");
        Broker { port, dir, child: None, environment: Vec::new(), enter: Vec::new(), subscriber_args, publisher_args }
    }

    /// With further lines in its configuration; they belong to the shipped listener, or begin another.
    pub fn also(self, lines: &str) -> Broker {
        let path = self.dir.path().join("mosquitto.conf");
        let config = std::fs::read_to_string(&path).expect("it is there");
        std::fs::write(&path, format!("{config}\n{lines}\n")).expect("a writable directory");
        self
    }

    /// With other text in a file of its configuration, `mosquitto.conf` or `acl`.
    pub fn with(self, file: &str, from: &str, to: &str) -> Broker {
        let path = self.dir.path().join(file);
        let mut text = std::fs::read_to_string(&path).expect("it is there");
        replace(&mut text, from, to);
        std::fs::write(&path, text).expect("a writable directory");
        self
    }

    /// In a network of its own, with its clients.
    pub fn within(mut self, network: &Namespace) -> Broker {
        self.enter = network.enter();
        self
    }

    /// With a variable in its environment.
    pub fn environment(mut self, name: &str, value: &str) -> Broker {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Kills it and starts it as one that has forgotten everything: sessions, queues, what was retained.
    pub fn restart_without_memory(&mut self) {
        self.kill();
        match std::fs::remove_file(self.dir.path().join("mosquitto.db")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => panic!("the broker's memory: {e}"),
            _ => self.restart(),
        }
    }

    /// Starts it (again) and waits until it answers.
    pub fn start(mut self) -> Broker {
        self.restart();
        self
    }

    /// Kills it, if it runs, and starts it with what it has on disk.
    pub fn restart(&mut self) {
        self.kill();
        let log =
            std::fs::File::options().create(true).append(true).open(self.log_path()).expect("a writable directory");
        let config = self.dir.path().join("mosquitto.conf");
        // Debian keeps it where only root's PATH looks.
        let program = [PathBuf::from("/usr/sbin/mosquitto")].into_iter().find(|p| p.exists());
        let program = program.unwrap_or_else(|| "mosquitto".into());
        let mut command = self.command(path(&program));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg("-c").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap_or_else(|e| panic!("mosquitto: {e}: {REMEDY}")));
        let mut child = self.child.take().expect("just started");
        let up = wait_for("the broker", || match child.try_wait().expect("our child") {
            Some(status) => Some(Err(status)),
            None => self.answers().then_some(Ok(())),
        });
        self.child = Some(child);
        if let Err(status) = up {
            panic!("mosquitto ended at once ({status}): {}", self.log());
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our child");
            child.wait().expect("our child");
        }
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).expect("a readable log")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn answers(&self) -> bool {
        match self.enter.is_empty() {
            true => TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok(),
            false => {
                let args = ["-t", "vedette/v1/x/y/ack/soc", "-m", ""];
                let mut asking = self.client(&["mosquitto_pub"], &self.publisher_args);
                asking.args(args).output().is_ok_and(|o| o.status.success())
            }
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut words = self.enter.iter().map(String::as_str).chain([program]);
        let mut command = Command::new(words.next().expect("the program, if nothing else"));
        command.args(words);
        command
    }

    fn client(&self, program: &[&str], args: &[String]) -> Command {
        let mut command = self.command(program[0]);
        command.args(&program[1..]);
        command.args(["-V", "mqttv5", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-q", "1"]);
        command.args(args);
        command
    }

    /// Publishes as the consumer.
    pub fn publish(&self, topic: &str, payload: &str) {
        output(self.client(&["mosquitto_pub"], &self.publisher_args).args(["-t", topic, "-m", payload]));
    }

    /// Publishes as the consumer what the broker is to keep.
    pub fn publish_retained(&self, topic: &str, payload: &str) {
        output(self.client(&["mosquitto_pub"], &self.publisher_args).args(["-r", "-t", topic, "-m", payload]));
    }

    /// Subscribes as the consumer; returns when the broker has granted it.
    pub fn subscribe(&self, filter: &str) -> Subscriber {
        Subscriber::spawn(self.client(SUBSCRIBER, &self.subscriber_args).args(["-t", filter]))
    }

    /// As [`Broker::subscribe`], in a session of the given name that the broker keeps when the subscriber goes.
    pub fn subscribe_as(&self, session: &str, filter: &str) -> Subscriber {
        Subscriber::spawn(
            self.client(SUBSCRIBER, &self.subscriber_args).args(["-t", filter, "-c", "-i", session, "-x", "3600"]),
        )
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A message as a consumer gets it.
#[derive(Debug, Clone)]
pub struct Message {
    /// Where.
    pub topic: String,
    /// It was there before the subscription.
    pub retained: bool,
    /// What.
    pub payload: Value,
    /// MQTT content type.
    pub content_type: Option<String>,
    /// Seconds until the broker lets go of it.
    pub expiry_s: Option<u64>,
    /// MQTT user properties.
    pub user_properties: BTreeMap<String, String>,
}

/// A running `mosquitto_sub`; ends with its value.
pub struct Subscriber {
    child: Child,
    messages: Receiver<Message>,
    /// All that came, for the day something does not.
    seen: Vec<Message>,
}

impl Subscriber {
    fn spawn(command: &mut Command) -> Subscriber {
        command.args(["-d", "-F", "%j"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("mosquitto_sub: {e}: {REMEDY}"));
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let ((granted, wait), (tx, messages)) = (mpsc::channel(), mpsc::channel());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.starts_with("Subscribed") {
                    granted.send(()).unwrap_or(());
                } else if line.starts_with('{') {
                    // The test may be over while something still comes.
                    tx.send(Message::read(&line)).unwrap_or(());
                }
            }
        });
        let subscriber = Subscriber { child, messages, seen: Vec::new() };
        wait.recv_timeout(PATIENCE).expect("the broker grants the subscription");
        subscriber
    }

    /// The next message that `wanted` accepts; others are passed over.
    pub fn wait_for(&mut self, what: &str, mut wanted: impl FnMut(&Message) -> bool) -> Message {
        let clock = SystemClock::new();
        loop {
            match self.messages.recv_timeout(PATIENCE.saturating_sub(clock.now().since(Mono::ZERO))) {
                Ok(message) => {
                    self.seen.push(message.clone());
                    if wanted(&message) {
                        return message;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let tail = &self.seen[self.seen.len().saturating_sub(5)..];
                    panic!("no {what} came; of {} messages the last are {tail:#?}", self.seen.len());
                }
            }
        }
    }

    /// All that has come by now.
    pub fn everything(&mut self) -> &[Message] {
        self.seen.extend(self.messages.try_iter());
        &self.seen
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }
}

impl Message {
    fn read(line: &str) -> Message {
        let json: Value = serde_json::from_str(line).expect("mosquitto_sub writes JSON");
        let properties = &json["properties"];
        let text = |v: &Value| v.as_str().map(String::from);
        Message {
            topic: text(&json["topic"]).expect("every message has a topic"),
            retained: json["retain"] == 1,
            payload: serde_json::from_str(json["payload"].as_str().unwrap_or("")).unwrap_or(Value::Null),
            content_type: text(&properties["content-type"]),
            expiry_s: properties["message-expiry-interval"].as_u64(),
            user_properties: properties["user-properties"]
                .as_object()
                .map(|o| o.iter().filter_map(|(k, v)| Some((k.clone(), text(v)?))).collect())
                .unwrap_or_default(),
        }
    }
}

/// What a client of Mosquitto's needs to be let in as `name`.
fn client_args(certs: &Path, name: &str) -> Vec<String> {
    let file = |name: String| path(&certs.join(name)).to_owned();
    let (ca, crt, key) = (file("ca.crt".into()), file(format!("{name}.crt")), file(format!("{name}.key")));
    [("--cafile", ca), ("--cert", crt), ("--key", key)].map(|(o, f)| [o.to_owned(), f]).concat()
}

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/mosquitto").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn replace(config: &mut String, from: &str, to: &str) {
    assert!(config.contains(from), "the shipped configuration no longer says {from:?}");
    *config = config.replace(from, to);
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary directories have plain names")
}

fn output(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}: {REMEDY}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}
