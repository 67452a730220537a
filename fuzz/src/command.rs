//! Payloads of commands, as anyone who may write to the broker can send them.

use vedette::contract::command::{Command, Order};

/// See [`super`].
pub fn check(data: &[u8]) {
    match Order::parse(data) {
        Err(why) => assert!(!why.0.is_empty(), "a refusal without a reason"),
        // JSON has no infinity: a threshold of 1e99 is for control to refuse, and cannot be said again.
        Ok(Order { command: Command::SetThresholds { thresholds, .. }, .. })
            if thresholds.values().any(|t| !t.is_finite()) => {}
        Ok(order) => {
            // What was understood is said again in the same words.
            let said = serde_json::to_vec(&order.command).expect("commands are plain data");
            let again: Command = serde_json::from_slice(&said).expect("a command");
            assert_eq!(again, order.command);
            let alone = Order::parse(&said).expect("a request without its envelope");
            assert_eq!((alone.command, alone.expires), (order.command, None));
        }
    }
}
