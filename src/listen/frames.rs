//! Watches the frames of an HTTP/2 connection for streams that the library beneath refuses on its own: it resets them
//! and tells nobody, and what is refused must be counted and recorded.
//!
//! In: the bytes that come and go. Out: what was refused, for the connection's loop. Must never: hold up or change a
//! byte; keep more than a bounded amount, whatever a client sends.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
/// The client's magic comes before its first frame (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// Streams remembered as begun. More are open only under an attack that the library ends.
const REMEMBERED: usize = 1024;
/// A compressed head shorter than this has a status and no more; the id of a request alone is longer.
const BARE: usize = 16;
/// Refusals that may wait for the loop.
const WAITING: usize = 256;

/// Something the library refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// A stream was reset with this error code before anything but its head had come.
    Reset(u32),
    /// A status and nothing else was the answer: 400 of pingora, 431 of the library beneath it.
    Answered,
}

impl Refused {
    pub(super) fn detail(self) -> &'static str {
        match self {
            Refused::Reset(1) => "a stream was reset: its head is malformed",
            Refused::Reset(7) => "a stream was reset: more are open than was agreed",
            Refused::Reset(_) => "a stream was reset for an error of the protocol",
            Refused::Answered => "a stream was refused: its head is malformed or too large",
        }
    }
}

/// What was refused so far, shared by connection and loop.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    waiting: Mutex<Vec<Refused>>,
    came: Notify,
}

impl Refusals {
    /// Waits until there are some, and takes them.
    pub(super) async fn next(&self) -> Vec<Refused> {
        loop {
            let taken = self.take();
            if !taken.is_empty() {
                return taken;
            }
            self.came.notified().await;
        }
    }

    pub(super) fn take(&self) -> Vec<Refused> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, refused: Refused) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING {
            waiting.push(refused);
        }
        self.came.notify_one();
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watch {
    refusals: Arc<Refusals>,
    received: Walk,
    sent: Walk,
    /// Streams that are more than the client's head: what befalls them is told by the record of their request.
    begun: BTreeSet<u32>,
}

impl Watch {
    pub(super) fn new(refusals: Arc<Refusals>) -> Self {
        Watch { refusals, received: Walk::after(PREFACE), sent: Walk::after(0), begun: BTreeSet::new() }
    }

    pub(super) fn received(&mut self, bytes: &[u8]) {
        let begun = &mut self.begun;
        self.received.walk(bytes, |frame| match frame.kind {
            DATA | WINDOW_UPDATE if frame.stream != 0 => {
                remember(begun, frame.stream);
            }
            RST_STREAM => {
                begun.remove(&frame.stream);
            }
            _ => {}
        });
    }

    pub(super) fn sent(&mut self, bytes: &[u8]) {
        let (begun, refusals) = (&mut self.begun, &self.refusals);
        self.sent.walk(bytes, |frame| {
            let known = begun.contains(&frame.stream);
            match (frame.kind, frame.tail) {
                (RST_STREAM, [.., code]) => {
                    begun.remove(&frame.stream);
                    // The codes that only the library sends; NO_ERROR, INTERNAL_ERROR and CANCEL are ends of requests,
                    // and STREAM_CLOSED may answer what was still on its way.
                    if !known && matches!(code, 1 | 3 | 6 | 7 | 9 | 11 | 13) {
                        refusals.add(Refused::Reset(u32::from(code)));
                    }
                }
                // Answers of ours have more fields, the id of the request at least.
                (HEADERS, _) if !known && frame.length < BARE && frame.flags & END_STREAM != 0 => {
                    refusals.add(Refused::Answered);
                }
                (HEADERS, _) if frame.flags & END_STREAM == 0 => remember(begun, frame.stream),
                (DATA | HEADERS, _) if frame.flags & END_STREAM != 0 => {
                    begun.remove(&frame.stream);
                }
                _ => {}
            }
        });
    }
}

fn remember(begun: &mut BTreeSet<u32>, stream: u32) {
    if begun.len() >= REMEMBERED {
        begun.pop_first();
    }
    begun.insert(stream);
}

/// A frame that has gone by whole.
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    length: usize,
    /// The last bytes of its payload.
    tail: [u8; 4],
}

/// Finds the frames in a stream of bytes that comes in any pieces (RFC 9113 section 4.1).
#[derive(Debug)]
struct Walk {
    /// Bytes to pass over before the first frame.
    skip: usize,
    head: [u8; 9],
    have: usize,
    /// Bytes of the payload that are still to come.
    left: usize,
    tail: [u8; 4],
}

impl Walk {
    fn after(skip: usize) -> Self {
        Walk { skip, head: [0; 9], have: 0, left: 0, tail: [0; 4] }
    }

    fn walk(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        let (passed, rest) = bytes.split_at(self.skip.min(bytes.len()));
        self.skip -= passed.len();
        bytes = rest;
        while !bytes.is_empty() {
            if self.have < self.head.len() {
                let (now, rest) = bytes.split_at((self.head.len() - self.have).min(bytes.len()));
                for (to, from) in self.head.iter_mut().skip(self.have).zip(now) {
                    *to = *from;
                }
                self.have += now.len();
                bytes = rest;
                if self.have < self.head.len() {
                    return;
                }
                let [a, b, c, ..] = self.head;
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
                self.tail = [0; 4];
            }
            let (now, rest) = bytes.split_at(self.left.min(bytes.len()));
            for byte in now.iter().skip(now.len().saturating_sub(self.tail.len())) {
                self.tail.rotate_left(1);
                let [.., last] = &mut self.tail;
                *last = *byte;
            }
            self.left -= now.len();
            bytes = rest;
            if self.left == 0 {
                let [a, b, c, kind, flags, s, t, u, v] = self.head;
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                let stream = u32::from_be_bytes([s & 0x7f, t, u, v]);
                each(Frame { kind, flags, stream, length, tail: self.tail });
                self.have = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn seen(received: &[u8], sent: &[u8], piece: usize) -> Vec<Refused> {
        let refusals = Arc::new(Refusals::default());
        let mut watch = Watch::new(refusals.clone());
        let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", received].concat();
        preface.chunks(piece).for_each(|p| watch.received(p));
        sent.chunks(piece).for_each(|p| watch.sent(p));
        refusals.take()
    }

    #[test]
    fn refusals_are_seen_in_bytes_of_any_pieces() {
        let received = [frame(1, 5, 1, b"head"), frame(1, 4, 3, b"head"), frame(0, 1, 3, b"a body")].concat();
        let sent = [
            frame(4, 0, 0, &[0; 18]),
            frame(1, 4, 5, &[0x8c, 1, 2, 3, 4, 5]),
            frame(0, 1, 5, &[9; 100]),
            frame(3, 0, 1, &1u32.to_be_bytes()),
            frame(3, 0, 3, &1u32.to_be_bytes()),
            frame(3, 0, 7, &8u32.to_be_bytes()),
            frame(1, 5, 9, &[0x3f, 0xe1, 0x1f, 0x8c]),
            frame(1, 4, 13, &[9; 60]),
            frame(1, 5, 13, &[0xbe]),
            frame(1, 5, 15, &[9; 60]),
            frame(3, 0, 11, &7u32.to_be_bytes()),
        ]
        .concat();
        for piece in [1, 2, 3, 7, 9, 10, 1000] {
            let expected = [Refused::Reset(1), Refused::Answered, Refused::Reset(7)];
            assert_eq!(seen(&received, &sent, piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_flood_is_kept_within_bounds() {
        let received: Vec<u8> = (0..5000).flat_map(|n| frame(0, 0, 2 * n + 1, b"")).collect();
        let sent: Vec<u8> = (0..5000).flat_map(|n| frame(3, 0, 2 * n + 1, &1u32.to_be_bytes())).collect();
        assert_eq!(seen(&received, &sent, 4096).len(), WAITING);
    }
}
