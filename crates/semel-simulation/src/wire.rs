//! One connection: two streams of bytes that arrive later, and the one fault that strikes it.
//!
//! A close is told to the other end, a reset to both; a process that dies tells nobody, its system resets. Writers are
//! never made to wait. Next: [`crate::network`], which makes connections.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper_util::client::legacy::connect::{Connected, Connection as Connects};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::chance::Chance;
use crate::fault::Fault;
use crate::network::{Network, Side};
use crate::sim::{Life, lock};

/// What befalls a connection.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    fault: Option<Fault>,
    /// Which exchange of request and answer it befalls.
    exchange: u32,
    /// After how many bytes.
    bytes: usize,
    delay: Duration,
}

impl Plan {
    /// `fault` at an exchange and a byte that the dice choose.
    pub fn new(fault: Option<Fault>, dice: &mut Chance) -> Self {
        // Connections of clients have one exchange, those of gateways may have several.
        let exchange = [0, 0, 0, 1][dice.below(4)];
        let delay = match fault {
            Some(Fault::Reorder) => dice.millis(20, 1_500),
            _ => dice.millis(500, 8_000),
        };
        Self { fault, exchange, bytes: 1 + dice.below(40), delay }
    }
}

#[derive(Debug)]
enum Item {
    Data(Bytes),
    Close,
    Reset,
}

#[derive(Debug, Default)]
struct Inbox {
    items: VecDeque<(Instant, Item)>,
    last: Option<Instant>,
    reader: Option<Waker>,
}

impl Inbox {
    fn push(&mut self, at: Instant, item: Item) {
        let at = self.last.map_or(at, |last| last.max(at));
        self.last = Some(at);
        self.items.push_back((at, item));
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// A connection. End 0 has opened it.
#[derive(Debug)]
pub struct Connection {
    network: Arc<Network>,
    side: Side,
    name: String,
    lives: [Arc<Life>; 2],
    inboxes: [Inbox; 2],
    /// Which ends have closed.
    closed: [bool; 2],
    reset: bool,
    /// Which ends are heard no more.
    muted: [bool; 2],
    plan: Plan,
    struck: bool,
    exchange: u32,
    last_writer: usize,
    latency: Duration,
    dice: Chance,
}

impl Connection {
    /// A connection between two processes.
    pub fn new(
        network: Arc<Network>,
        side: Side,
        name: String,
        lives: [Arc<Life>; 2],
        plan: Plan,
        latency: Duration,
        dice: Chance,
    ) -> Self {
        Self {
            network,
            side,
            name,
            lives,
            inboxes: Default::default(),
            closed: [false; 2],
            reset: false,
            muted: [false; 2],
            plan,
            struck: false,
            exchange: 0,
            last_writer: 0,
            latency,
            dice,
        }
    }

    /// One of its ends has died.
    pub fn end_died(&mut self, life: &Arc<Life>) {
        for end in [0, 1] {
            if Arc::ptr_eq(&self.lives[end], life) && !self.closed[end] {
                self.closed[end] = true;
                let at = self.arrival();
                self.inboxes[1 - end].push(at, Item::Reset);
            }
        }
    }

    fn arrival(&mut self) -> Instant {
        let jitter = self.dice.millis(0, 3);
        let sent = self.network.parted(self.side).unwrap_or_else(Instant::now);
        sent + self.latency + jitter
    }

    fn deliver(&mut self, to: usize, data: &[u8], later: Duration) {
        if data.is_empty() {
            return;
        }
        let at = self.arrival() + later;
        self.inboxes[to].push(at, Item::Data(Bytes::copy_from_slice(data)));
    }

    fn reset_both(&mut self) {
        self.reset = true;
        for end in [0, 1] {
            let at = self.arrival();
            self.inboxes[end].push(at, Item::Reset);
        }
    }

    fn strike(&mut self, fault: Fault) {
        self.struck = true;
        self.network.sim().struck(fault, &self.name);
    }

    /// Takes what end `from` writes.
    fn write(&mut self, from: usize, data: &[u8]) -> io::Result<()> {
        if self.reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if from == 0 && self.last_writer == 1 {
            self.exchange += 1;
        }
        let first = self.last_writer != from || (from == 0 && self.inboxes[1].last.is_none());
        self.last_writer = from;
        if self.closed[1 - from] {
            // The other end is gone, and its system says so.
            let at = self.arrival() + self.latency;
            self.inboxes[from].push(at, Item::Reset);
            return Ok(());
        }
        if self.muted[from] {
            return Ok(());
        }
        let due = self.plan.fault.filter(|_| !self.struck && self.exchange == self.plan.exchange);
        match due {
            Some(fault) if from == 0 && first => self.befall_request(fault, data),
            Some(fault) if from == 1 && first => self.befall_answer(fault, data),
            _ => self.deliver(1 - from, data, Duration::ZERO),
        }
        Ok(())
    }

    fn befall_request(&mut self, fault: Fault, data: &[u8]) {
        let head = head_end(data);
        match fault {
            Fault::ResetBeforeHead => {}
            Fault::ResetInHead => self.deliver(1, &data[..self.plan.bytes.min(head / 2)], Duration::ZERO),
            Fault::ResetInBody if head < data.len() => {
                self.deliver(1, &data[..data.len() - 1], Duration::ZERO);
            }
            Fault::ResetAfterBody => self.deliver(1, data, Duration::ZERO),
            Fault::RequestSilence => {
                self.strike(fault);
                self.muted[0] = true;
                return;
            }
            Fault::Delay | Fault::Reorder => {
                self.strike(fault);
                self.struck = fault == Fault::Reorder;
                return self.deliver(1, data, self.plan.delay);
            }
            Fault::Trickle | Fault::Fragment => {
                self.strike(fault);
                self.struck = false;
                return self.in_pieces(1, data, fault);
            }
            _ => return self.deliver(1, data, Duration::ZERO),
        }
        self.strike(fault);
        self.reset_both();
    }

    fn befall_answer(&mut self, fault: Fault, data: &[u8]) {
        let head = head_end(data);
        match fault {
            Fault::ResetInAnswerHead => {
                self.deliver(0, &data[..self.plan.bytes.min(head / 2)], Duration::ZERO);
            }
            Fault::ResetInAnswerBody => {
                let kept = if head < data.len() { head + 1 } else { head };
                self.deliver(0, &data[..kept], Duration::ZERO);
            }
            Fault::AnswerSilence => {
                self.strike(fault);
                self.muted[1] = true;
                return;
            }
            Fault::Delay => {
                self.strike(fault);
                return self.deliver(0, data, self.plan.delay);
            }
            Fault::Trickle | Fault::Fragment => {
                self.strike(fault);
                return self.in_pieces(0, data, fault);
            }
            _ => return self.deliver(0, data, Duration::ZERO),
        }
        self.strike(fault);
        self.reset_both();
    }

    fn in_pieces(&mut self, to: usize, data: &[u8], fault: Fault) {
        let (size, pause) = match fault {
            Fault::Trickle => (data.len() / 8 + 1, Duration::from_millis(300)),
            _ => ((data.len() / 100).max(3), Duration::from_millis(1)),
        };
        let mut later = Duration::ZERO;
        for piece in data.chunks(size) {
            self.deliver(to, piece, later);
            later += pause;
        }
    }

    fn close(&mut self, from: usize) {
        if !self.closed[from] {
            self.closed[from] = true;
            if !self.muted[from] && !self.reset {
                let at = self.arrival();
                self.inboxes[1 - from].push(at, Item::Close);
            }
        }
    }
}

/// Where the head of an HTTP message ends.
fn head_end(data: &[u8]) -> usize {
    data.windows(4).position(|four| four == b"\r\n\r\n").map_or(data.len(), |at| at + 4)
}

/// One end of a connection.
#[derive(Debug)]
pub struct Stream {
    connection: Arc<Mutex<Connection>>,
    end: usize,
    life: Arc<Life>,
    sleep: Pin<Box<Sleep>>,
}

impl Stream {
    /// An end of `connection`.
    pub fn new(connection: &Arc<Mutex<Connection>>, end: usize) -> Self {
        let life = Arc::clone(&lock(connection).lives[end]);
        let sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { connection: Arc::clone(connection), end, life, sleep }
    }

    /// Waits for `until`, in a poll.
    fn wait(&mut self, until: Instant, context: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().reset(until);
        self.sleep.as_mut().poll(context)
    }

    /// Ready when the process runs.
    fn runs(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.life.is_dead() {
            return Poll::Pending;
        }
        match self.life.frozen_until() {
            Some(until) => self.wait(until, context),
            None => Poll::Ready(()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.runs(context));
        let (connection, end) = (Arc::clone(&self.connection), self.end);
        let mut connection = lock(&connection);
        let inbox = &mut connection.inboxes[end];
        inbox.reader = Some(context.waker().clone());
        let Some((at, item)) = inbox.items.front_mut() else { return Poll::Pending };
        if *at > Instant::now() {
            let at = *at;
            drop(connection);
            std::task::ready!(self.wait(at, context));
            // The timer and the clock agree, so this happens at most once.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        match item {
            Item::Data(data) => {
                let count = data.len().min(buffer.remaining());
                buffer.put_slice(&data[..count]);
                data.advance(count);
                if data.is_empty() {
                    inbox.items.pop_front();
                }
                Poll::Ready(Ok(()))
            }
            // Both are for ever.
            Item::Close => Poll::Ready(Ok(())),
            Item::Reset => Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.runs(context));
        let mut connection = lock(&self.connection);
        Poll::Ready(connection.write(self.end, data).map(|()| data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.runs(context));
        lock(&self.connection).close(self.end);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.life.is_dead() {
            lock(&self.connection).close(self.end);
        }
    }
}

impl Connects for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}
