//! What we publish about our messages: examples that a running daemon really sent, and the promise that a consumer of v1 never
//! breaks. `contract/check.py` looks at both with tools that are not ours.
//!
//! `VEDETTE_REGENERATE=1` writes the examples anew. `VEDETTE_FREEZE=1` adds to the promise what has been added to the
//! schemas; it takes nothing back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use vedette::contract::schema;

use crate::common::agent::{Agent, PATTERN};
use crate::common::broker::{Broker, Message};
use crate::common::fleet::{repository_with, tiny};
use crate::common::wait_for;
use crate::ota::{offer, ota};

const DEVICE: &str = "vedette/v1/test/unit";

#[test]
fn the_examples_are_what_a_daemon_says() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    capture(dir.path());
    let published = contract().join("examples");
    if std::env::var_os("VEDETTE_REGENERATE").is_some() {
        std::fs::create_dir_all(&published).expect("writable");
        for file in dir.path().read_dir().expect("readable") {
            let file = file.expect("readable");
            std::fs::copy(file.path(), published.join(file.file_name())).expect("writable");
        }
    }
    for file in dir.path().read_dir().expect("readable") {
        let name = file.expect("readable").file_name();
        let [now, example] = [dir.path(), &published].map(|dir| read(&dir.join(&name)));
        // What the heartbeat tells is different on every machine.
        let depth = if name == "heartbeat.json" { 2 } else { usize::MAX };
        let [now, example] = [now, example].map(|message| shape(&message, depth));
        let remedy = "run this test once with VEDETTE_REGENERATE=1";
        assert_eq!(now, example, "{} is not what the daemon says now: {remedy}", name.display());
    }
    check(&[&published, dir.path()]);
}

/// One of each kind of message, from a daemon that a person tests.
fn capture(dir: &Path) {
    let broker = Broker::plaintext().start();
    let mut alerts = broker.subscribe(&format!("{DEVICE}/alerts/+"));
    let mqtt = format!("[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\nheartbeat_s = 1\n", broker.port);
    let clip = "[clip]\npre_roll_s = 1\npost_roll_s = 1\n";
    // A camera that nobody has connected, for the notice of it.
    let yard = "[[camera]]\nid = \"yard\"\nkind = \"rtsp\"\nurl = \"rtsp://127.0.0.1:9/\"\n";
    let fleet = repository_with(&[&tiny()]);
    let ota = ota(&fleet.published(), &fleet.first_root(), "");
    let mut agent = Agent::new(&format!("{PATTERN}{yard}"), &format!("{clip}\n{mqtt}\n{ota}")).start();
    let retained = |channel: &str, wanted: &dyn Fn(&Value) -> bool| {
        // A state that has not come yet comes to the same subscription, but not as a retained one.
        let topic = format!("{DEVICE}/{channel}");
        wait_for(channel, || {
            Some(broker.subscribe(&topic).wait_for(channel, |_| true)).filter(|m| m.retained && wanted(&m.payload))
        })
    };
    keep(dir, "state-birth", &retained("state", &|m| m["online"] == true));
    keep(dir, "camera", &retained("camera/pattern", &|m| m["status"] == "live"));
    agent.raise_test();
    for (name, kind) in [("alert-opened", "opened"), ("alert-closed", "closed"), ("alert-clip-ready", "clip_ready")] {
        let kind = format!("org.vedette.alert.{kind}.v1");
        keep(dir, name, &alerts.wait_for(name, |m| m.payload["type"] == kind.as_str()));
    }
    keep(dir, "notice-raised", &alerts.wait_for("a notice", |m| m.payload["type"] == "org.vedette.notice.raised.v1"));
    for (id, request) in [
        ("succeeded", json!({"command": "disarm", "camera": "pattern", "requested_by": "soc"})),
        (
            "rejected",
            json!({"command": "clip", "incident": "00000000-0000-0000-0000-000000000000", "requested_by": "soc"}),
        ),
    ] {
        broker.publish(&format!("{DEVICE}/cmd/example-{id}"), &request.to_string());
        let channel = format!("cmd/example-{id}/status");
        keep(dir, &format!("command-{id}"), &retained(&channel, &|m| m["state"] == id.to_uppercase().as_str()));
    }
    offer(&agent, 1);
    let is_done = |m: &Message| m.payload["data"]["update"]["state"] == "committed";
    keep(dir, "update-step", &alerts.wait_for("a release", is_done));
    keep(dir, "update", &retained("update", &|m| m["update"]["state"] == "committed"));
    keep(dir, "outbox", &retained("outbox", &|m| m["pending"] == 0 && m["newest"].as_u64() >= Some(3)));
    keep(dir, "heartbeat", &retained("heartbeat", &|m| m["inference"] != Value::Null));
    assert!(agent.terminate().success());
    keep(dir, "state-goodbye", &retained("state", &|m| m["reason"] == "stopped"));
}

fn keep(dir: &Path, name: &str, message: &Message) {
    let Message { topic, retained, payload, content_type, user_properties, .. } = message;
    let captured = json!({"topic": topic, "retained": retained, "content_type": content_type,
        "user_properties": user_properties, "payload": payload});
    let text = format!("{}\n", serde_json::to_string_pretty(&captured).expect("JSON"));
    // Where this tree happens to lie is nobody's business.
    let text = text.replace(root().join(".cache/onnxruntime").to_str().expect("UTF-8"), "/usr/lib/vedette");
    std::fs::write(dir.join(name).with_extension("json"), text).expect("writable");
}

/// The keys of a value, as deep as that, and what is below each.
fn shape(value: &Value, depth: usize) -> Value {
    match value {
        Value::Object(fields) if depth > 0 => {
            fields.iter().map(|(key, value)| (key.clone(), shape(value, depth - 1))).collect()
        }
        // Whether an optional field has a value is not its shape.
        _ => Value::Null,
    }
}

/// Has strangers' tools look at the contract and at these messages. Loudly not, where they can't be had.
#[allow(clippy::print_stderr, reason = "a test that tests nothing must be seen")]
fn check(captured: &[&Path]) {
    let packages = root().join(".cache/python");
    if !packages.join("cloudevents").is_dir() {
        return eprintln!(
            "SKIPPED: no packages in .cache/python (deploy/dev/python.sh): the contract's documents are not checked"
        );
    }
    let mut script = Command::new("python3");
    script.env("PYTHONPATH", packages).arg(root().join("tests/contract/check.py")).arg(contract()).args(captured);
    let run = script.output().expect("python3");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

fn read(path: &Path) -> Value {
    let text = std::fs::read(path)
        .unwrap_or_else(|e| panic!("{}: {e}: run this once with VEDETTE_REGENERATE=1", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn contract() -> PathBuf {
    root().join("deploy/contract")
}

/// What of one field is promised.
type Field = BTreeMap<String, Value>;

/// By schema, by path: whether it is always there, the types that it may have, the words that it may be.
type Promise = BTreeMap<String, BTreeMap<String, Field>>;

#[test]
fn a_consumer_of_v1_never_breaks() {
    let file = root().join("tests/contract/v1.json");
    let now = promise_of(schema::all().into_iter().map(|(name, schema)| (name.to_owned(), schema.as_value().clone())));
    if std::env::var_os("VEDETTE_FREEZE").is_some() {
        let mut frozen: Promise =
            std::fs::read(&file).map_or_else(|_| Promise::new(), |text| serde_json::from_slice(&text).expect("JSON"));
        for (schema, fields) in &now {
            let known = frozen.entry(schema.clone()).or_default();
            for (path, field) in fields {
                known.entry(path.clone()).or_insert_with(|| field.clone());
            }
        }
        let text = format!("{}\n", serde_json::to_string_pretty(&frozen).expect("JSON"));
        std::fs::write(&file, text).expect("writable");
    }
    let frozen: Promise = serde_json::from_value(read(&file)).expect("a promise");
    assert_eq!(broken(&frozen, &now), Vec::<String>::new());
}

#[test]
fn what_would_break_a_consumer_is_noticed() {
    let schema = json!({
        "type": "object", "required": ["kind", "size", "inner"],
        "properties": {
            "kind": {"$ref": "#/$defs/Kind"}, "size": {"type": "integer"}, "note": {"type": ["string", "null"]},
            "inner": {"$ref": "#/$defs/Inner"}, "list": {"type": "array", "items": {"$ref": "#/$defs/Inner"}},
        },
        "$defs": {
            "Kind": {"oneOf": [{"type": "string", "const": "a"}, {"type": "string", "const": "b"}]},
            "Inner": {"type": "object", "required": ["deep"], "properties": {"deep": {"type": "boolean"}}},
        },
    });
    let promise = |name: &str, schema: &Value| promise_of([(name.to_owned(), schema.clone())]);
    let change = |name: &str, pointer: &str, value: Value| {
        let mut changed = schema.clone();
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let parent = changed.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
        if value.is_null() {
            parent.remove(key)
        } else {
            parent.insert(key.to_owned(), value)
        };
        broken(&promise(name, &schema), &promise(name, &changed))
    };
    let said = "alert.schema.json";
    // Added: fine.
    assert_eq!(change(said, "/properties/more", json!({"type": "string"})), Vec::<String>::new());
    let words =
        json!([{"type": "string", "const": "a"}, {"type": "string", "const": "b"}, {"type": "string", "const": "c"}]);
    assert_eq!(change(said, "/$defs/Kind/oneOf", words.clone()), Vec::<String>::new());
    assert_eq!(change(said, "/required", json!(["kind", "size", "inner", "note"])), Vec::<String>::new());
    // Removed, renamed, retyped, no longer sure to be there, a word gone.
    for (pointer, value) in [
        ("/properties/note", Value::Null),
        ("/properties/list", Value::Null),
        ("/$defs/Inner/properties/deep", Value::Null),
        ("/$defs/Inner/properties", json!({"deeper": {"type": "boolean"}})),
        ("/properties/size", json!({"type": "string"})),
        ("/properties/size", json!({"type": ["integer", "null"]})),
        ("/$defs/Inner/properties/deep", json!({"type": "integer"})),
        ("/required", json!(["kind", "inner"])),
        ("/$defs/Inner/required", json!([])),
        ("/$defs/Kind/oneOf", json!([{"type": "string", "const": "a"}])),
    ] {
        assert!(!change(said, pointer, value.clone()).is_empty(), "{pointer} {value}");
    }
    // What others say to us: we may ask for no more and understand no less.
    let heard = "ack.schema.json";
    assert_eq!(change(heard, "/required", json!(["kind", "inner"])), Vec::<String>::new());
    assert_eq!(change(heard, "/properties/size", json!({"type": ["integer", "string"]})), Vec::<String>::new());
    assert_eq!(change(heard, "/required", json!(["kind", "size", "inner", "note"])).len(), 1);
    assert_eq!(change(heard, "/properties/note", json!({"type": "string"})).len(), 1);
    assert_eq!(change(heard, "/properties/note", Value::Null).len(), 1);
}

/// What a consumer that keeps to `frozen` would stumble over in `now`.
fn broken(frozen: &Promise, now: &Promise) -> Vec<String> {
    let mut broken = Vec::new();
    for (schema, fields) in frozen {
        // The only messages that go towards the device.
        let heard = ["ack.schema.json", "command.schema.json"].contains(&schema.as_str());
        for (path, then) in fields {
            let Some(field) = now.get(schema).and_then(|fields| fields.get(path)) else {
                broken.push(format!("{schema}: {path} is gone"));
                continue;
            };
            let words = |field: &Field, key: &str| -> Vec<Value> {
                field.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
            };
            let lacks = |some: &Field, other: &Field, key: &str| {
                words(some, key).iter().any(|word| !words(other, key).contains(word))
            };
            let (wider, narrower) = if heard { (then, field) } else { (field, then) };
            if lacks(wider, narrower, "types") {
                broken.push(format!("{schema}: {path} was {:?} and is {:?}", then["types"], field["types"]));
            }
            if lacks(then, field, "words") {
                broken.push(format!("{schema}: {path} no longer has every word of {:?}", then["words"]));
            }
            let (must, may) = if heard { (field, then) } else { (then, field) };
            if must["always"] == true && may["always"] != true {
                broken.push(format!("{schema}: {path} is {}always there", if heard { "now " } else { "no longer " }));
            }
        }
        if heard {
            let new = now.get(schema).into_iter().flatten().filter(|(path, _)| !fields.contains_key(*path));
            broken.extend(
                new.filter(|(_, f)| f["always"] == true).map(|(path, _)| format!("{schema}: {path} is asked for")),
            );
        }
    }
    broken
}

fn promise_of(schemas: impl IntoIterator<Item = (String, Value)>) -> Promise {
    let mut promise = Promise::new();
    for (name, schema) in schemas {
        let mut fields = BTreeMap::new();
        walk(&schema, &schema, "", &mut fields);
        promise.insert(name, fields);
    }
    promise
}

/// Notes the fields of an object, and what is below them: `a.b` a field, `a.*` any field, `a[]` an element.
fn walk(root: &Value, schema: &Value, path: &str, fields: &mut BTreeMap<String, Field>) {
    for Part { schema, alternative } in parts(root, schema) {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            note(root, field, &below, !alternative && required.contains(&name.as_str()), fields);
        }
        for (key, below) in [("additionalProperties", format!("{path}.*")), ("items", format!("{path}[]"))] {
            if schema[key].is_object() {
                note(root, &schema[key], &below, false, fields);
            }
        }
    }
}

fn note(root: &Value, schema: &Value, path: &str, always: bool, fields: &mut BTreeMap<String, Field>) {
    let known = fields.remove(path);
    let list = |key: &str| known.as_ref().and_then(|f| f[key].as_array().cloned()).unwrap_or_default();
    let (mut types, mut words) = (list("types"), list("words"));
    for Part { schema, .. } in parts(root, schema) {
        match &schema["type"] {
            Value::Array(some) => types.extend(some.iter().cloned()),
            Value::String(one) => types.push(one.as_str().into()),
            _ => {}
        }
        words.extend(schema["enum"].as_array().into_iter().flatten().cloned());
        words.extend(schema.get("const").cloned());
    }
    for list in [&mut types, &mut words] {
        list.sort_by_key(Value::to_string);
        list.dedup();
    }
    let always = always && known.is_none_or(|f| f["always"] == true);
    let field = [("always", json!(always)), ("types", types.into()), ("words", words.into())];
    fields.insert(path.to_owned(), field.map(|(key, value)| (key.to_owned(), value)).into());
    walk(root, schema, path, fields);
}

/// Something that a schema is made of.
struct Part<'a> {
    schema: &'a Value,
    /// One of several objects that it may be: what that one must have, others need not.
    alternative: bool,
}

/// A schema and all that it is made of.
fn parts<'a>(root: &'a Value, schema: &'a Value) -> Vec<Part<'a>> {
    let mut parts = vec![Part { schema, alternative: false }];
    if let Some(name) = schema["$ref"].as_str() {
        let target = name.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        parts.extend(self::parts(root, target.expect("a reference within the schema")));
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        let choices: Vec<_> = schema[key].as_array().into_iter().flatten().map(|s| self::parts(root, s)).collect();
        let objects = choices.iter().filter(|c| c.iter().any(|part| part.schema["properties"].is_object())).count();
        let one_of_many = key != "allOf" && objects > 1;
        parts.extend(choices.into_iter().flatten().map(|p| Part { alternative: p.alternative || one_of_many, ..p }));
    }
    parts
}
