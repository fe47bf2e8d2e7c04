//! The history: what was changed in the registry, by whom and why, as a chain in which nothing can be altered, taken
//! out or moved without it showing.
//!
//! In: what a change was about. Out: events as text, each with the hash of its text and of all before it; signed
//! checkpoints; the first fault of a chain. An event's text is kept as it was hashed and never written anew. Must never:
//! do I/O; call an event a record.

use crate::clock::UnixNanos;
use crate::name::ApprovalId;
use ring::digest;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;

/// What is signed begins with this, so that a signature is good for nothing else.
const CHECKPOINT_CONTEXT: &[u8] = b"partnergate.history-checkpoint/1\n";

/// Who changes something, on what way, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    pub actor: Actor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of whatever the operators keep their requests in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// What somebody else had asked for, and the actor has approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalId>,
    /// Said where nobody else had to approve what permits more than there was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub four_eyes: Option<Off>,
    /// Only to see what it would come to: nothing is written, and so no event either.
    #[serde(skip)]
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Off {
    Off,
}

impl Cause {
    pub fn new(actor: Actor, reason: Option<String>, ticket: Option<String>) -> Self {
        Cause { actor, reason, ticket, approval: None, four_eyes: None, dry_run: false }
    }
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The operator's name; of who is none the user's, or `uid N` where the system knows none.
    pub name: String,
    pub way: Way,
    /// As the kernel gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The id of the token that was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// SHA-256 of the certificate that was shown, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Where the call came from, over the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl Actor {
    /// A user of this machine; `name` is its operator's, or its own.
    pub fn user(name: impl Into<String>, uid: Option<u32>, way: Way) -> Self {
        Actor { name: name.into(), way, uid, token: None, certificate: None, address: None }
    }
}

/// The way that a change came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Through the running gateway, on this machine.
    AdminSocket,
    /// Through the running gateway, over the network.
    AdminTls,
    /// Through the enrol listener: a partner for itself.
    Enrol,
    /// Through the partner listener: a partner for itself.
    Partner,
    /// On the database of a gateway that did not run.
    Offline,
    /// The gateway itself: the beginning of the history.
    Gateway,
}

/// What became of a noun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// The history begins.
    Begin,
    Create,
    Change,
    Remove,
    /// A time has come: something of the noun has begun.
    Start,
    /// The same of an end.
    End,
    /// A certificate was ordered from a CA whose key is elsewhere.
    Order,
    /// A call was refused, or changed something that is not in the registry.
    Call,
    /// The first operators were named.
    Bootstrap,
    /// The whole registry was taken back from a copy.
    Restore,
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Begin => "begin",
            Verb::Create => "create",
            Verb::Change => "change",
            Verb::Remove => "remove",
            Verb::Start => "start",
            Verb::End => "end",
            Verb::Order => "order",
            Verb::Call => "call",
            Verb::Bootstrap => "bootstrap",
            Verb::Restore => "restore",
        }
    }
}

/// One change of one noun of the registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// From 1, without gaps.
    pub seq: u64,
    /// RFC 3339, of the commit.
    pub time: String,
    #[serde(flatten)]
    pub cause: Cause,
    pub verb: Verb,
    /// `partner`, `network`, `anchor`, `operator` …; `history` for what is about all of it; `call` for a call of itself.
    pub noun: String,
    pub id: String,
    /// The registry's revision with the change in it.
    pub revision: u64,
    /// What was there: of a change, what of it is different afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What is there now: of a change, what of it was different before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// SHA-256 of the whole noun as it is stored now, hex; absent once it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document_sha256: Option<String>,
}

/// What of two values is different: of objects the keys that differ, of lists the items that the other does not have.
/// A list of a hundred thousand names in which one is new would otherwise be in every event of its noun, twice.
pub fn difference(before: &Value, after: &Value) -> (Value, Value) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let (mut was, mut is) = (Map::new(), Map::new());
            for (key, old) in old {
                match new.get(key) {
                    Some(new) if new == old => {}
                    Some(new) => {
                        let (old, new) = difference(old, new);
                        was.insert(key.clone(), old);
                        is.insert(key.clone(), new);
                    }
                    None => drop(was.insert(key.clone(), old.clone())),
                }
            }
            let added = new.iter().filter(|(key, _)| !old.contains_key(*key));
            is.extend(added.map(|(key, new)| (key.clone(), new.clone())));
            (was.into(), is.into())
        }
        (Value::Array(old), Value::Array(new)) => {
            let (old, new) = middles(old, new);
            let texts = |list: &[Value]| list.iter().map(Value::to_string).collect::<HashSet<String>>();
            let without = |list: &[Value], others: HashSet<String>| {
                list.iter().filter(|item| !others.contains(&item.to_string())).cloned().collect::<Vec<_>>()
            };
            (without(old, texts(new)).into(), without(new, texts(old)).into())
        }
        _ => (before.clone(), after.clone()),
    }
}

/// Two lists without what both begin and end with: of long lists that differ in a few places, little is left.
pub fn middles<'a, T: PartialEq>(a: &'a [T], b: &'a [T]) -> (&'a [T], &'a [T]) {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (a.get(same..).unwrap_or_default(), b.get(same..).unwrap_or_default());
    let same = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    (a.get(..a.len() - same).unwrap_or_default(), b.get(..b.len() - same).unwrap_or_default())
}

/// SHA-256 of a stored noun, hex.
pub fn document_sha256(text: &str) -> String {
    hex::encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// SHA-256 over the hash before it and the text of an event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Before the first event.
    pub const START: Hash = Hash([0; 32]);

    /// Of the next event.
    pub fn then(&self, text: &str) -> Hash {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.0);
        context.update(text.as_bytes());
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Hash(hash)
    }

    /// 64 hex digits.
    pub fn parse(text: &str) -> Option<Hash> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash).ok()?;
        Some(Hash(hash))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How far a chain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Of the last event; 0 before the first.
    pub seq: u64,
    pub hash: Hash,
}

impl End {
    pub const START: End = End { seq: 0, hash: Hash::START };

    /// Puts an event behind it. `event.seq` is filled in. Returns the text.
    pub fn append(&mut self, event: Event) -> String {
        self.seq += 1;
        let event = Event { seq: self.seq, ..event };
        // Of such fields JSON can always be made; a text that says less is chained all the same.
        let text =
            serde_json::to_string(&event).unwrap_or_else(|e| format!("{{\"seq\":{},\"error\":\"{e}\"}}", self.seq));
        self.hash = self.hash.then(&text);
        text
    }
}

/// That a chain had come to an end, signed by the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub seq: u64,
    /// Hex.
    pub hash: String,
    /// RFC 3339.
    pub time: String,
    /// Ed25519 public key, hex.
    pub key: String,
    /// Hex.
    pub signature: String,
}

/// What signs checkpoints.
pub struct Signer {
    pair: Ed25519KeyPair,
}

impl Signer {
    /// Of a PKCS#8 document.
    ///
    /// # Errors
    /// It is none, or not of Ed25519.
    pub fn from_pkcs8(document: &[u8]) -> Result<Signer, String> {
        let pair = Ed25519KeyPair::from_pkcs8(document).map_err(|e| format!("is no Ed25519 key in PKCS#8: {e}"))?;
        Ok(Signer { pair })
    }

    /// A new PKCS#8 document.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn generate() -> Result<Vec<u8>, String> {
        let document = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new());
        document.map(|d| d.as_ref().to_vec()).map_err(|_| "the system gives no random numbers".into())
    }

    /// The public key, hex.
    pub fn key(&self) -> String {
        hex::encode(self.pair.public_key())
    }

    /// The signature of a text, hex. The context says what it is a signature of: none is taken for another.
    pub fn sign_text(&self, context: &[u8], text: &str) -> String {
        hex::encode(self.pair.sign(&[context, text.as_bytes()].concat()))
    }

    pub fn sign(&self, end: &End, now: UnixNanos) -> Checkpoint {
        let (hash, time) = (end.hash.to_string(), now.to_string());
        let signature = hex::encode(self.pair.sign(&signed(end.seq, &hash, &time)));
        Checkpoint { seq: end.seq, hash, time, key: self.key(), signature }
    }
}

fn signed(seq: u64, hash: &str, time: &str) -> Vec<u8> {
    [CHECKPOINT_CONTEXT, format!("{seq}\n{hash}\n{time}\n").as_bytes()].concat()
}

/// Looks at the events of a chain, one after another.
#[derive(Debug)]
pub struct Verifier<'a> {
    end: End,
    /// By seq; what is behind the chain's last event tells of events that are gone.
    checkpoints: std::iter::Peekable<std::slice::Iter<'a, Checkpoint>>,
    /// The node's own public key, hex.
    key: &'a str,
    good: u64,
    /// The last event that a good checkpoint is for.
    vouched: u64,
}

/// The first thing that is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("there is no history: a database of table version 1 gets one when a gateway opens it, any other had one")]
    NoHistory,
    #[error("event {seq} is missing")]
    Missing { seq: u64 },
    #[error("event {seq}, of which the records were given a copy, is not there: event {last} is the last")]
    Copied { seq: u64, last: u64 },
    #[error("the registry is at revision {revision}, and the last event that there is tells of revision {told}")]
    Revision { revision: u64, told: u64 },
    #[error("event {seq} is not in its place: its text says {says}")]
    Moved { seq: u64, says: String },
    #[error("event {seq} was altered: its hash is {found}, and what is there gives {expected}")]
    Altered { seq: u64, found: String, expected: String },
    #[error("event {seq} is not the one of the checkpoint that was signed at {time}: the chain up to it was made anew")]
    Rewritten { seq: u64, time: String },
    #[error("event {seq} is filed under the {noun} `{id}`, which it is not about")]
    Misfiled { seq: u64, noun: String, id: String },
    #[error("event {seq} and what follows is not signed by this node: it was put there by somebody else")]
    Unsigned { seq: u64 },
    #[error("event {seq} tells of a change of the {noun} `{id}` that no event before it leads to")]
    OutOfNothing { seq: u64, noun: String, id: String },
    #[error("the {noun} `{id}` is not what the history made it{}", last(*seq))]
    Registry { noun: String, id: String, seq: Option<u64> },
    #[error("the {noun} `{id}` is gone, and event {seq} left it there")]
    Gone { noun: String, id: String, seq: u64 },
    #[error("the checkpoint of event {seq} is not signed by this node's key: {why}")]
    Signature { seq: u64, why: String },
}

fn last(seq: Option<u64>) -> String {
    seq.map_or_else(|| ": no event left it there".to_owned(), |seq| format!(": event {seq} is the last of it"))
}

/// Whether this key (hex) has signed a text with [`Signer::sign_text`].
pub fn is_signed(key: &str, context: &[u8], text: &str, signature: &str) -> bool {
    let (Ok(public), Ok(signature)) = (hex::decode(key), hex::decode(signature)) else { return false };
    let message = [context, text.as_bytes()].concat();
    UnparsedPublicKey::new(&ED25519, public).verify(&message, &signature).is_ok()
}

/// Whether a checkpoint is of this end of a chain, and signed by this key.
pub fn vouches(checkpoint: &Checkpoint, end: &End, key: &str) -> bool {
    let Checkpoint { seq, hash, time, key: named, signature } = checkpoint;
    let (Ok(public), Ok(signature)) = (hex::decode(key), hex::decode(signature)) else { return false };
    named == key
        && *seq == end.seq
        && Hash::parse(hash) == Some(end.hash)
        && UnparsedPublicKey::new(&ED25519, public).verify(&signed(*seq, hash, time), &signature).is_ok()
}

impl<'a> Verifier<'a> {
    /// `checkpoints` sorted by seq.
    pub fn new(checkpoints: &'a [Checkpoint], key: &'a str) -> Self {
        Verifier { end: End::START, checkpoints: checkpoints.iter().peekable(), key, good: 0, vouched: 0 }
    }

    /// The next event as it is stored.
    ///
    /// # Errors
    /// What is wrong with it; then nothing further can be said.
    pub fn event(&mut self, seq: u64, text: &str, hash: &str) -> Result<(), Fault> {
        let wanted = self.end.seq + 1;
        if seq != wanted {
            return Err(Fault::Missing { seq: wanted });
        }
        let expected = self.end.hash.then(text);
        let says = serde_json::from_str::<Value>(text).ok().and_then(|v| v.get("seq").cloned());
        if says.as_ref().and_then(Value::as_u64) != Some(seq) {
            let says = says.map_or_else(|| "nothing of a place".to_owned(), |s| s.to_string());
            return Err(Fault::Moved { seq, says });
        }
        if Hash::parse(hash) != Some(expected) {
            return Err(Fault::Altered { seq, found: hash.to_owned(), expected: expected.to_string() });
        }
        self.end = End { seq, hash: expected };
        while let Some(checkpoint) = self.checkpoints.next_if(|c| c.seq <= seq) {
            self.checkpoint(checkpoint)?;
        }
        Ok(())
    }

    /// There are no more events. Returns the end of the chain and how many checkpoints vouch for it.
    ///
    /// # Errors
    /// A checkpoint was signed for an event that is gone.
    pub fn finish(mut self) -> Result<(End, u64), Fault> {
        match self.checkpoints.next() {
            // Every commit signs its last event: one that nobody has signed was put there by somebody else.
            None if self.vouched < self.end.seq => Err(Fault::Unsigned { seq: self.vouched + 1 }),
            None => Ok((self.end, self.good)),
            Some(_) => Err(Fault::Missing { seq: self.end.seq + 1 }),
        }
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), Fault> {
        let Checkpoint { seq, hash, time, key, signature } = checkpoint;
        let wrong = |why: &str| Err(Fault::Signature { seq: *seq, why: why.to_owned() });
        if key != self.key {
            return wrong(&format!("the checkpoint names the key {key}"));
        }
        let (Ok(public), Ok(signature)) = (hex::decode(key), hex::decode(signature)) else {
            return wrong("it is no hex");
        };
        if UnparsedPublicKey::new(&ED25519, public).verify(&signed(*seq, hash, time), &signature).is_err() {
            return wrong("the signature does not verify");
        }
        if *seq != self.end.seq || Hash::parse(hash) != Some(self.end.hash) {
            return Err(Fault::Rewritten { seq: *seq, time: time.clone() });
        }
        self.good += 1;
        self.vouched = *seq;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: UnixNanos = UnixNanos(1_700_000_000_000_000_000);

    struct Chain {
        rows: Vec<(u64, String, String)>,
        checkpoints: Vec<Checkpoint>,
        signer: Signer,
    }

    fn event(id: &str) -> Event {
        let actor = Actor::user("alice", Some(1000), Way::AdminSocket);
        Event {
            seq: 0,
            time: NOW.to_string(),
            cause: Cause::new(actor, Some("new contract".into()), None),
            verb: Verb::Create,
            noun: "partner".into(),
            id: id.into(),
            revision: 7,
            before: None,
            after: Some(json!({"b": 1, "a": [1.5, "ü"]})),
            document_sha256: Some(document_sha256("{}")),
        }
    }

    fn chain(ids: &[&str], signer: Signer) -> Chain {
        let (mut end, mut rows, mut checkpoints) = (End::START, Vec::new(), Vec::new());
        for id in ids {
            let text = end.append(event(id));
            rows.push((end.seq, text, end.hash.to_string()));
            checkpoints.push(signer.sign(&end, NOW));
        }
        Chain { rows, checkpoints, signer }
    }

    fn signer() -> Signer {
        Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap()
    }

    fn three() -> Chain {
        chain(&["a", "b", "c"], signer())
    }

    fn verify(chain: &Chain) -> Result<(End, u64), Fault> {
        let key = chain.signer.key();
        let mut verifier = Verifier::new(&chain.checkpoints, &key);
        for (seq, text, hash) in &chain.rows {
            verifier.event(*seq, text, hash)?;
        }
        verifier.finish()
    }

    #[test]
    fn of_long_lists_only_what_differs_is_left() {
        for (a, b, left) in [
            ("abcd", "abcd", ("", "")),
            ("abcd", "abxcd", ("", "x")),
            ("abcd", "xabcd", ("", "x")),
            ("abcd", "abc", ("d", "")),
            ("abcd", "axyd", ("bc", "xy")),
            ("aa", "aaa", ("", "a")),
            ("", "ab", ("", "ab")),
        ] {
            let (was, is) = middles(a.as_bytes(), b.as_bytes());
            assert_eq!((was, is), (left.0.as_bytes(), left.1.as_bytes()), "{a} {b}");
        }
    }

    #[test]
    fn a_whole_chain_is_good_and_its_events_read_back() {
        let chain = three();
        let (end, vouched) = verify(&chain).unwrap();
        assert_eq!((end.seq, vouched, end.hash.to_string()), (3, 3, chain.rows[2].2.clone()));
        let read: Event = serde_json::from_str(&chain.rows[1].1).unwrap();
        assert_eq!(read, Event { seq: 2, ..event("b") });
    }

    #[test]
    fn an_event_has_what_differs_and_not_all_the_rest() {
        let before = json!({"name": "Acme", "same": [1], "partners": ["a", "b", "c"], "grants": [{"id": "g", "x": 1}], "old": 1});
        let after = json!({"name": "ACME", "same": [1], "partners": ["c", "a", "d"], "grants": [{"id": "g", "x": 2}], "new": 2});
        let (was, is) = difference(&before, &after);
        assert_eq!(was, json!({"name": "Acme", "partners": ["b"], "grants": [{"id": "g", "x": 1}], "old": 1}));
        assert_eq!(is, json!({"name": "ACME", "partners": ["d"], "grants": [{"id": "g", "x": 2}], "new": 2}));
    }

    #[test]
    fn the_first_event_that_was_touched_is_named() {
        type Damage = fn(&mut Chain);
        let cases: [(&str, Damage, Fault); 7] = [
            ("dropped", |c| drop(c.rows.remove(1)), Fault::Missing { seq: 2 }),
            ("cut off", |c| c.rows.truncate(2), Fault::Missing { seq: 3 }),
            (
                "swapped",
                |c| {
                    let second = c.rows[1].1.clone();
                    c.rows[1].1 = std::mem::replace(&mut c.rows[2].1, second);
                },
                Fault::Moved { seq: 2, says: "3".into() },
            ),
            ("emptied", |c| c.rows[0].1 = "{}".into(), Fault::Moved { seq: 1, says: "nothing of a place".into() }),
            (
                "put behind the chain",
                |c| {
                    let mut end = End { seq: 3, hash: Hash::parse(&c.rows[2].2).unwrap() };
                    let text = end.append(event("d"));
                    c.rows.push((end.seq, text, end.hash.to_string()));
                },
                Fault::Unsigned { seq: 4 },
            ),
            (
                "signed by another key",
                |c| {
                    let end = End { seq: 2, hash: Hash::parse(&c.rows[1].2).unwrap() };
                    c.checkpoints[1] = signer().sign(&end, NOW);
                    c.checkpoints[1].key = c.signer.key();
                },
                Fault::Signature { seq: 2, why: "the signature does not verify".into() },
            ),
            (
                "made anew",
                |c| {
                    let old = std::mem::take(&mut c.checkpoints);
                    let signer = std::mem::replace(&mut c.signer, signer());
                    *c = Chain { checkpoints: old, ..chain(&["a", "x", "c"], signer) };
                },
                Fault::Rewritten { seq: 2, time: NOW.to_string() },
            ),
        ];
        for (what, damage, fault) in cases {
            let mut chain = three();
            damage(&mut chain);
            assert_eq!(verify(&chain), Err(fault), "{what}");
        }
        let mut chain = three();
        chain.rows[1].1 = chain.rows[1].1.replace("alice", "mallory");
        assert!(matches!(verify(&chain), Err(Fault::Altered { seq: 2, .. })));
    }
}
