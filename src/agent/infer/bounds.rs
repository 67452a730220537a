//! What a network may be at most, looked at before a runtime is given it. Runtimes walk a network by recursion, in their
//! own process or in ours: a graph inside a graph inside a graph, or a function that calls itself, would end it. So would a
//! few hundred bytes of functions that each call the next one twice.
//!
//! A walk over the wire format of Protocol Buffers, as far as ONNX nests: graphs in the attributes of nodes, functions. It
//! recurses no deeper than what it allows, and takes time with the number of nodes. What is damaged it passes over: the
//! runtime says so in better words. Groups, which no ONNX has and behind which a parser would go on, it refuses.
//!
//! What does not belong here: whether a network computes the right thing.

use std::collections::HashMap;

/// Protocol Buffers end there, and so does ONNX.
const MOST_BYTES: u64 = i32::MAX as u64;
/// Graphs inside one another. A network of ours has one; a loop or a condition has one inside.
const MOST_DEPTH: usize = 8;
/// Functions that call one another.
const MOST_CALLS: usize = 32;
/// Nodes, those of a function counted at each of its calls. MobileNet has 155.
const MOST_NODES: u64 = 100_000;

/// Why no runtime is given a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Of bytes.
    #[error("it has {0} bytes, and ONNX ends at {MOST_BYTES}")]
    TooLarge(u64),
    /// Of graphs.
    #[error("graphs lie in one another more than {MOST_DEPTH} deep")]
    TooDeep,
    /// Of functions.
    #[error("its function {0} calls itself, by itself or by way of others")]
    Recursive(String),
    /// Of functions.
    #[error("its functions call one another more than {MOST_CALLS} deep")]
    TooManyCalls,
    /// Of nodes.
    #[error("it has more than {MOST_NODES} nodes, those of its functions counted at each call")]
    TooManyNodes,
    /// Not as ONNX is written.
    #[error("it holds a group, which ONNX has none of")]
    Group,
}

/// Whether a file of so many bytes may be a network.
pub fn check_size(bytes: u64) -> Result<(), Unfit> {
    if bytes > MOST_BYTES { Err(Unfit::TooLarge(bytes)) } else { Ok(()) }
}

/// Whether a runtime may be given this ONNX.
pub fn check(onnx: &[u8]) -> Result<(), Unfit> {
    check_size(onnx.len() as u64)?;
    let (mut graph, mut functions) = (Body::default(), HashMap::<Name, Body>::new());
    for field in Fields(onnx) {
        match field? {
            (7, Value::Bytes(bytes)) => graph.graph(bytes, 1)?,
            (25, Value::Bytes(bytes)) => {
                let (name, body) = function(bytes)?;
                functions.entry(name).or_default().add(body);
            }
            _ => {}
        }
    }
    let mut expansion = Expansion { functions: &functions, known: HashMap::new(), path: Vec::new() };
    let nodes = expansion.nodes(&graph)?;
    // One that nothing calls may be gone through all the same.
    for name in functions.keys() {
        expansion.of(name)?;
    }
    if nodes > MOST_NODES { Err(Unfit::TooManyNodes) } else { Ok(()) }
}

/// Domain, name and overload of an operator or function.
type Name = (Vec<u8>, Vec<u8>, Vec<u8>);

/// The nodes of a graph with all the graphs in it, or of a function: how many of each operator.
#[derive(Default)]
struct Body(HashMap<Name, u64>);

impl Body {
    fn add(&mut self, other: Body) {
        for (name, count) in other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    /// GraphProto.
    fn graph(&mut self, bytes: &[u8], depth: usize) -> Result<(), Unfit> {
        if depth > MOST_DEPTH {
            return Err(Unfit::TooDeep);
        }
        for field in Fields(bytes) {
            if let (1, Value::Bytes(node)) = field? {
                self.node(node, depth)?;
            }
        }
        Ok(())
    }

    /// NodeProto.
    fn node(&mut self, bytes: &[u8], depth: usize) -> Result<(), Unfit> {
        let mut name = Name::default();
        for field in Fields(bytes) {
            match field? {
                (4, Value::Bytes(op)) => name.1 = op.into(),
                (7, Value::Bytes(domain)) => name.0 = domain_of(domain),
                (8, Value::Bytes(overload)) => name.2 = overload.into(),
                (5, Value::Bytes(attribute)) => {
                    // AttributeProto: one graph, or several.
                    for field in Fields(attribute) {
                        if let (6 | 11, Value::Bytes(graph)) = field? {
                            self.graph(graph, depth + 1)?;
                        }
                    }
                }
                _ => {}
            }
        }
        *self.0.entry(name).or_default() += 1;
        Ok(())
    }
}

/// FunctionProto.
fn function(bytes: &[u8]) -> Result<(Name, Body), Unfit> {
    let (mut name, mut body) = (Name::default(), Body::default());
    for field in Fields(bytes) {
        match field? {
            (1, Value::Bytes(text)) => name.1 = text.into(),
            (10, Value::Bytes(domain)) => name.0 = domain_of(domain),
            (13, Value::Bytes(overload)) => name.2 = overload.into(),
            (7, Value::Bytes(node)) => body.node(node, 1)?,
            _ => {}
        }
    }
    Ok((name, body))
}

/// Two spellings of ONNX's own.
fn domain_of(text: &[u8]) -> Vec<u8> {
    if text == b"ai.onnx" { Vec::new() } else { text.into() }
}

/// What comes of putting every function where it is called.
struct Expansion<'a> {
    functions: &'a HashMap<Name, Body>,
    known: HashMap<&'a Name, u64>,
    path: Vec<&'a Name>,
}

impl<'a> Expansion<'a> {
    fn nodes(&mut self, body: &'a Body) -> Result<u64, Unfit> {
        let mut nodes = 0u64;
        for (name, count) in &body.0 {
            let each = 1u64.saturating_add(self.of(name)?);
            nodes = nodes.saturating_add(each.saturating_mul(*count));
        }
        Ok(nodes)
    }

    /// Nodes of a function; none of what is no function.
    fn of(&mut self, name: &Name) -> Result<u64, Unfit> {
        let Some((name, body)) = self.functions.get_key_value(name) else { return Ok(0) };
        if let Some(nodes) = self.known.get(name) {
            return Ok(*nodes);
        }
        if self.path.contains(&name) {
            return Err(Unfit::Recursive(String::from_utf8_lossy(&name.1).into_owned()));
        }
        if self.path.len() >= MOST_CALLS {
            return Err(Unfit::TooManyCalls);
        }
        self.path.push(name);
        let nodes = self.nodes(body)?;
        self.path.pop();
        self.known.insert(name, nodes);
        Ok(nodes)
    }
}

/// What a field holds, if that can hold more fields.
enum Value<'a> {
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message, up to its end or to where it is damaged.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, bytes: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(bytes).ok()?)?;
        self.0 = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Unfit>;

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => self.varint().map(|_| Value::Other)?,
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let bytes = self.varint()?;
                Value::Bytes(self.take(bytes)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            3 | 4 => {
                self.0 = &[];
                return Some(Err(Unfit::Group));
            }
            _ => return None,
        };
        Some(Ok((tag >> 3, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::infer::test_model::{field, nested, network};

    /// A function of one node for each of `calls`.
    fn calling(name: &str, calls: &[&str]) -> Vec<u8> {
        let nodes = calls.iter().flat_map(|op| field(7, &[field(4, op.as_bytes()), field(7, b"own")].concat()));
        let body: Vec<u8> = [field(1, name.as_bytes()), field(10, b"own")].concat().into_iter().chain(nodes).collect();
        field(25, &body)
    }

    fn main_graph(calls: &str) -> Vec<u8> {
        field(7, &field(1, &[field(4, calls.as_bytes()), field(7, b"own")].concat()))
    }

    #[test]
    fn the_networks_that_we_have_are_fit() {
        for name in ["encoder.onnx", "head.onnx"] {
            assert_eq!(check(&network(name)), Ok(()), "{name}");
        }
        let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/activity-v1");
        let files = std::fs::read_dir(shipped).expect("it is in the tree").flatten().map(|e| e.path());
        let networks: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "onnx")).collect();
        assert!(networks.len() >= 4, "{networks:?}");
        for path in networks {
            assert_eq!(check(&std::fs::read(&path).expect("there")), Ok(()), "{}", path.display());
        }
    }

    #[test]
    fn graphs_in_one_another_have_an_end() {
        assert_eq!(check(&nested(MOST_DEPTH - 1)), Ok(()));
        assert_eq!(check(&nested(MOST_DEPTH)), Err(Unfit::TooDeep));
        assert_eq!(check(&nested(50_000)), Err(Unfit::TooDeep));
    }

    #[test]
    fn functions_call_neither_themselves_nor_too_many_others() {
        assert_eq!(check(&[main_graph("a"), calling("a", &["b", "b"]), calling("b", &["Relu"])].concat()), Ok(()));
        for functions in
            [vec![calling("a", &["a"])], vec![calling("a", &["b"]), calling("b", &["c"]), calling("c", &["Relu", "a"])]]
        {
            for calls in ["a", "Relu"] {
                let e = check(&[main_graph(calls), functions.concat()].concat()).expect_err("it calls itself");
                assert!(matches!(e, Unfit::Recursive(_)), "{e}");
            }
        }
        let chain = |length: usize, calls: usize| -> Vec<u8> {
            let links = (0..length).flat_map(|n| calling(&format!("f{n}"), &vec![&format!("f{}", n + 1)[..]; calls]));
            main_graph("f0").into_iter().chain(links).collect()
        };
        assert_eq!(check(&chain(MOST_CALLS, 1)), Ok(()));
        assert_eq!(check(&chain(MOST_CALLS, 2)), Err(Unfit::TooManyNodes), "2 to the power of 32");
        assert_eq!(check(&chain(100_000, 1)), Err(Unfit::TooManyCalls));
    }

    #[test]
    fn nodes_and_bytes_have_an_end() {
        let node = field(1, &field(4, b"Relu"));
        let graph = |count: usize| field(7, &node.repeat(count));
        let most = usize::try_from(MOST_NODES).expect("a number of nodes");
        assert_eq!((check(&graph(most)), check(&graph(most + 1))), (Ok(()), Err(Unfit::TooManyNodes)));
        // The same in the body of a loop.
        let inner = field(1, &field(5, &field(6, &node.repeat(most + 1))));
        assert_eq!(check(&field(7, &inner)), Err(Unfit::TooManyNodes));
        assert_eq!(check_size(1 << 31), Err(Unfit::TooLarge(1 << 31)));
        assert_eq!(check_size((1 << 31) - 1), Ok(()));
    }

    proptest::proptest! {
        #[test]
        fn what_is_damaged_is_passed_over(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
            cut in 0_usize..1000,
            at in 0_usize..1000,
        ) {
            // No panic is all that is asked.
            check(&bytes).ok();
            let mut encoder = network("encoder.onnx");
            encoder.truncate(cut);
            check(&encoder).ok();
            if let Some(byte) = encoder.get_mut(at) {
                *byte ^= 0x55;
                check(&encoder).ok();
            }
        }
    }

    #[test]
    fn a_group_is_refused_for_what_may_come_after_it() {
        let bomb = nested(100);
        for tag in [0x0B, 0x0C, 0x9B] {
            assert_eq!(check(&[&[tag, 0x01][..], &bomb].concat()), Err(Unfit::Group), "{tag:#x}");
        }
    }
}
