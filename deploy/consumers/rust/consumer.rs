//! A consumer of Vedette's alerts that loses none, in Rust: an example to read, and to start your own from. What it does
//! and why is in `../python/consumer.py`, whose twin it is.
//!
//!     cargo run --example consumer -- --host broker.example.net --cafile ca.crt --cert soc.crt --key soc.key
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program that stands alone"
)]

mod ledger;
mod refusals;
mod session;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use rumqttc::{
    AckMode, Broker, Client, Connection, Event, MqttOptions, Outgoing, Packet, PubAck, Publish, PublishOptions, QoS,
    RecvTimeoutError, Transport,
};
use serde_json::{Value, json};
use uuid::Uuid;

use ledger::Ledger;
use refusals::Refusals;
use session::NothingInFlight;

const BATCH: usize = 100;
const SESSION_EXPIRY_S: u32 = 7 * 24 * 3600;

/// Stores every alert exactly once, and confirms it.
#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    #[arg(long, help = "default: 8883 with --cafile, else 1883")]
    port: Option<u16>,
    #[arg(long, default_value = "soc", help = "as in the devices' [mqtt] consumers")]
    name: String,
    #[arg(long, help = "every worker of a group has its own; default: the name")]
    client_id: Option<String>,
    #[arg(long, default_value = "alerts.db")]
    database: String,
    #[arg(long, help = "name of a group of workers that share the alerts, and the database")]
    share: Option<String>,
    #[arg(long, default_value_t = 10.0, help = "seconds that a gap may stay")]
    replay_after: f64,
    #[arg(long, default_value_t = 2.0, help = "seconds between connections")]
    retry: f64,
    #[arg(long)]
    cafile: Option<PathBuf>,
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    #[arg(long)]
    key: Option<PathBuf>,
    #[arg(long, requires = "password_file")]
    user: Option<String>,
    #[arg(long)]
    password_file: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut consumer = Consumer {
        ledger: Ledger::open(&args.database).context(args.database.clone())?,
        patience: Patience { first: Duration::from_secs_f64(args.replay_after), waits: HashMap::new() },
        said: HashMap::new(),
        refusals: Refusals::default(),
        args,
    };
    loop {
        let (client, mut connection) = consumer.connect()?;
        let lost = consumer.consume(&client, &mut connection)?;
        eprintln!("no connection: {lost}");
        std::thread::sleep(Duration::from_secs_f64(consumer.args.retry));
    }
}

/// The ledger on MQTT 5, in one thread.
struct Consumer {
    args: Args,
    ledger: Ledger,
    patience: Patience,
    /// What was confirmed over this connection, by source.
    said: HashMap<String, (String, i64)>,
    /// What the broker does not take, over this connection.
    refusals: Refusals,
}

impl Consumer {
    /// Every connection has a client of its own: what was not acknowledged comes again anyway.
    fn connect(&self) -> Result<(Client, Connection)> {
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| path.display().to_string());
        let args = &self.args;
        let port = args.port.unwrap_or(if args.cafile.is_some() { 8883 } else { 1883 });
        let mut options = MqttOptions::new(self.client_id(), Broker::tcp(args.host.clone(), port));
        if let Some(ca) = &args.cafile {
            let client = args.cert.as_ref().zip(args.key.as_ref());
            let client = client.map(|(cert, key)| anyhow::Ok((read(cert)?, read(key)?))).transpose()?;
            options.set_transport(Transport::tls(read(ca)?, client, None));
        }
        if let (Some(user), Some(file)) = (&args.user, &args.password_file) {
            let secret = String::from_utf8(read(file)?)?;
            options.set_credentials(user.clone(), secret.lines().next().unwrap_or_default().to_owned());
        }
        // The broker keeps what comes while this program is away, and does not send more than a batch unasked.
        options
            .set_clean_start(false)
            .set_session_expiry_interval(Some(SESSION_EXPIRY_S))
            .set_receive_maximum(Some(BATCH as u16))
            .set_session_store(NothingInFlight { session_expiry_s: SESSION_EXPIRY_S })
            .set_keep_alive(30)
            .set_ack_mode(AckMode::Manual);
        Ok(Client::builder(options).capacity(10 * BATCH).try_build()?)
    }

    fn client_id(&self) -> String {
        self.args.client_id.as_ref().unwrap_or(&self.args.name).clone()
    }

    /// The broker's word on what was published. A confirmation that it refuses is said again with the next; until then the
    /// device keeps, and sends again, what is stored here.
    fn judge(&mut self, ack: &PubAck) {
        if let Some(topic) = self.refusals.answered(ack, &self.args.name) {
            self.said.retain(|source, _| !topic.starts_with(&topic_of(source, "ack/")));
        }
    }

    /// Why the connection ended. An error is of the database, and final.
    fn consume(&mut self, client: &Client, connection: &mut Connection) -> Result<String> {
        self.said.clear();
        self.refusals = Refusals::default();
        let mut asked = Instant::now();
        loop {
            let (mut batch, mut wait) = (Vec::new(), Duration::from_millis(200));
            // All that is there, at most a batch: one commit for all of it.
            let lost = loop {
                match connection.recv_timeout(wait) {
                    Ok(Ok(Event::Incoming(Packet::ConnAck(_)))) => self.subscribe(client)?,
                    Ok(Ok(Event::Incoming(Packet::Publish(message)))) => batch.push(message),
                    Ok(Ok(Event::Incoming(Packet::SubAck(ack)))) => {
                        // Without it nothing would ever come. The next connection finds out whether it is granted by then.
                        if let Some(why) = refusals::of_subscription(&ack) {
                            break Some(why);
                        }
                    }
                    Ok(Ok(Event::Outgoing(Outgoing::Publish(packet_id)))) => self.refusals.sent(packet_id),
                    Ok(Ok(Event::Incoming(Packet::PubAck(ack)))) => self.judge(&ack),
                    Ok(Ok(_)) => {}
                    Ok(Err(e)) => break Some(refusals::of_connection(&e, &self.client_id())),
                    Err(RecvTimeoutError::Disconnected) => break Some("the client has ended".to_owned()),
                    Err(RecvTimeoutError::Timeout { .. }) => break None,
                }
                if batch.len() >= BATCH {
                    break None;
                }
                wait = Duration::from_millis(1);
            };
            if !batch.is_empty() {
                self.settle(client, &batch)?;
            }
            if let Some(why) = lost {
                return Ok(why);
            }
            if asked.elapsed() > Duration::from_secs(1) {
                asked = Instant::now();
                self.ask(client)?;
            }
        }
    }

    fn subscribe(&self, client: &Client) -> Result<()> {
        let share = self.args.share.as_ref().map_or(String::new(), |group| format!("$share/{group}/"));
        client.try_subscribe(format!("{share}vedette/v1/+/+/alerts/+"), QoS::AtLeastOnce)?;
        // Retained messages do not go to shared subscriptions: every worker hears of the outbox.
        Ok(client.try_subscribe("vedette/v1/+/+/outbox", QoS::AtLeastOnce)?)
    }

    /// Commits a batch; then, and only then, says so to broker and devices.
    fn settle(&mut self, client: &Client, batch: &[Publish]) -> Result<()> {
        self.ledger.begin()?;
        let mut new = Vec::new();
        for message in batch {
            let topic = String::from_utf8_lossy(&message.topic);
            let content: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
            let understood = if topic.ends_with("/outbox") {
                self.hear(&content)?
            } else {
                let first = self.ledger.alert(&content)?;
                if content["replayed"] == true {
                    self.patience.moved(content["source"].as_str().unwrap_or_default());
                }
                new.extend(first.filter(|first| *first).map(|_| content));
                first.is_some()
            };
            if !understood {
                eprintln!("not understood, on {topic}: {}", String::from_utf8_lossy(&message.payload));
            }
        }
        self.ledger.commit()?;
        for event in new {
            println!("{event}");
        }
        for message in batch {
            client.try_ack(message)?;
        }
        for (source, epoch, upto) in self.ledger.confirmable()? {
            let word = (epoch, upto);
            if upto > 0 && self.said.get(&source) != Some(&word) {
                self.patience.moved(&source);
                let (epoch, name) = (&word.0, &self.args.name);
                let confirmation =
                    if epoch.is_empty() { json!({"seq": upto}) } else { json!({"seq": upto, "epoch": epoch}) };
                publish(client, &mut self.refusals, topic_of(&source, &format!("ack/{name}")), &confirmation)?;
                self.said.insert(source, word);
            }
        }
        Ok(())
    }

    /// What a device says of its queue; false: not understood.
    fn hear(&mut self, state: &Value) -> Result<bool> {
        let (Some(site), Some(device)) = (state["site"].as_str(), state["device"].as_str()) else { return Ok(false) };
        let source = format!("/vedette/{site}/{device}");
        // It has not heard the last confirmation: say it again.
        if state["oldest_kept"].as_i64().is_some_and(|oldest| self.said.get(&source).is_some_and(|s| s.1 >= oldest)) {
            self.said.remove(&source);
        }
        Ok(self.ledger.outbox(&source, state)?)
    }

    /// Asks for what has been missing for long.
    fn ask(&mut self, client: &Client) -> Result<()> {
        for (source, epoch, _) in self.ledger.confirmable()? {
            let missing = self.ledger.missing(&source, &epoch)?;
            if let (Some((from, _)), Some((_, to))) = (missing.first(), missing.last())
                && self.patience.is_over(&source)
            {
                eprintln!("{source}: asking for {from} to {to}");
                let name = &self.args.name;
                let wanted = json!({"command": "replay", "from": from, "to": to, "requested_by": name});
                let topic = topic_of(&source, &format!("cmd/{name}-{}", Uuid::now_v7()));
                publish(client, &mut self.refusals, topic, &wanted)?;
            }
        }
        Ok(())
    }
}

fn topic_of(source: &str, channel: &str) -> String {
    format!("vedette/v1/{}/{channel}", source.trim_start_matches("/vedette/"))
}

fn publish(client: &Client, refusals: &mut Refusals, topic: String, content: &Value) -> Result<()> {
    client.try_publish(topic.clone(), content.to_string(), PublishOptions::at_least_once())?;
    refusals.published(topic);
    Ok(())
}

/// When to ask for what is missing: nothing has moved for a while, and then more and more seldom.
struct Patience {
    first: Duration,
    waits: HashMap<String, (Instant, Duration)>,
}

impl Patience {
    /// A number came, or something is being replayed.
    fn moved(&mut self, source: &str) {
        self.waits.remove(source);
    }

    fn is_over(&mut self, source: &str) -> bool {
        let (since, wait) = self.waits.entry(source.to_owned()).or_insert((Instant::now(), self.first));
        let over = since.elapsed() >= *wait;
        if over {
            (*since, *wait) = (Instant::now(), (*wait * 2).min(Duration::from_secs(600)));
        }
        over
    }
}
