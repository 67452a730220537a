//! The demo's other end: a subscriber at the broker that prints alerts as they arrive and confirms them, as a SOC
//! would. It shares nothing with the agent but the broker's address.

use std::time::Duration;

use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, PublishOptions, QoS};
use serde_json::Value;

use crate::base::stop::StopToken;
use crate::contract::ack::Ack;
use crate::contract::topics::{Channel, DeviceTopics};

/// How long it waits before it connects again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Subscribes to everything of the device until stopped; each message becomes a line for `say`.
pub async fn listen(
    (host, port): (String, u16),
    topics: DeviceTopics,
    consumer: String,
    mut say: impl FnMut(String),
    stop: StopToken,
) {
    let mut options = MqttOptions::new("vedette-demo-soc", (host, port));
    options.set_keep_alive(10);
    let (client, mut events) = AsyncClient::builder(options).capacity(16).build();
    loop {
        let event = tokio::select! {
            () = stop.stopped() => return,
            event = events.poll() => event,
        };
        match event {
            Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                let all = format!("vedette/v1/{}/{}/#", topics.site.as_str(), topics.device.as_str());
                if let Err(e) = client.subscribe(all, QoS::AtLeastOnce).await {
                    say(format!("cannot subscribe: {e}"));
                }
            }
            Ok(Event::Incoming(Incoming::Publish(message))) => {
                let topic = String::from_utf8_lossy(&message.topic).into_owned();
                let Ok(payload) = serde_json::from_slice::<Value>(&message.payload) else { continue };
                match DeviceTopics::parse(&topic) {
                    Ok((_, Channel::Alerts { .. })) => {
                        say(format!("{topic}\n{}", alert(&payload)));
                        let seq = payload["sequence"].as_str().and_then(|s| s.parse().ok());
                        if let (Some(seq), Ok(to)) = (seq, topics.ack(&consumer)) {
                            // In the demo every alert comes in order over one connection, so the newest is the
                            // highest contiguous one.
                            let epoch = payload["epoch"].as_str().and_then(|e| e.parse().ok());
                            let ack = serde_json::to_vec(&Ack { seq, epoch }).expect("plain data");
                            if let Err(e) = client.publish(to, ack, PublishOptions::new(QoS::AtLeastOnce)).await {
                                say(format!("cannot confirm {seq}: {e}"));
                            }
                        }
                    }
                    Ok((_, Channel::State | Channel::Camera { .. })) => say(format!("{topic}  {}", short(&payload))),
                    _ => {}
                }
            }
            Ok(_) => {}
            Err(e) => {
                say(format!("the subscriber lost the broker: {e}"));
                tokio::select! {
                    () = stop.stopped() => return,
                    () = tokio::time::sleep(AGAIN_AFTER) => {}
                }
            }
        }
    }
}

/// The parts of an alert that a person looks at first.
fn alert(event: &Value) -> String {
    let (incident, clip) = (&event["data"]["incident"], &event["data"]["clip"]);
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
    let mut lines = vec![format!(
        "    {}  sequence {}  {}{}",
        text(&event["type"]),
        text(&event["sequence"]),
        text(&incident["class"]),
        if incident["test"] == true { "  (a TEST: nothing was seen)" } else { "" },
    )];
    lines.push(format!("    incident {}  from {}", text(&incident["id"]), text(&incident["start_time"])));
    if let (Some(path), Some(_)) = (clip["path"].as_str(), clip["sha256"].as_str()) {
        let seconds = clip["duration_ms"].as_f64().unwrap_or(0.0) / 1000.0;
        lines.push(format!("    clip {path}  {seconds:.1} s  sha256 {}", text(&clip["sha256"])));
    }
    lines.join("\n")
}

fn short(state: &Value) -> String {
    ["online", "status", "reason", "since"]
        .iter()
        .filter(|k| !state[**k].is_null())
        .map(|k| format!("{k}={}", state[*k]))
        .collect::<Vec<_>>()
        .join(" ")
}
