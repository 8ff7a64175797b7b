//! What the daemon and its keeper say to each other: packets of a `SOCK_SEQPACKET` socket, with descriptors.
//!
//! A packet is its kind (1 byte), the number of the request that it belongs to (4 bytes, little-endian as all numbers)
//! and what the kind asks for. One that is too long for the socket travels in a memfd.

use std::{
    ffi::CStr,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    fs::MemfdFlags,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};

use crate::supervisor::{ExitStatus, Exited, ResourceUse, Signal};

/// The oldest and the newest version of this protocol that this build speaks.
pub(crate) const PROTOCOLS: (u32, u32) = (1, 1);

/// What a packet is. Numbers are never used again for anything else.
pub(crate) mod kind {
    /// First of all: oldest and newest protocol, own pid.
    pub(crate) const HELLO: u8 = 1;
    /// A plan; descriptors: stdout, stderr, kept ones.
    pub(crate) const SPAWN: u8 = 2;
    pub(crate) const SIGNAL: u8 = 3;
    pub(crate) const NOTE: u8 = 4;
    pub(crate) const FORGET: u8 = 5;
    pub(crate) const SURVIVORS: u8 = 6;
    /// Keep a descriptor under a name.
    pub(crate) const PUT: u8 = 7;
    pub(crate) const GET: u8 = 8;
    /// Watch a process that is not the keeper's child.
    pub(crate) const ADOPT: u8 = 9;
    /// End once no run is left.
    pub(crate) const END: u8 = 10;

    /// Answer to `HELLO`: protocol, pid, version.
    pub(crate) const WELCOME: u8 = 64;
    pub(crate) const DONE: u8 = 65;
    pub(crate) const STARTED: u8 = 66;
    /// A start failed: step, errno.
    pub(crate) const FAILED: u8 = 67;
    /// Refused: an errno and words.
    pub(crate) const REFUSED: u8 = 68;
    pub(crate) const SURVIVOR: u8 = 69;
    /// A run has ended.
    pub(crate) const EXIT: u8 = 70;
    /// A process has ended that was given to the keeper.
    pub(crate) const ORPHAN: u8 = 71;
    /// Descriptor: what was asked for with `GET`.
    pub(crate) const FOUND: u8 = 72;

    /// The packet itself is in the memfd that comes with it, before its other descriptors. Its number comes here too.
    pub(crate) const LONG: u8 = 127;
}

/// The longest packet that goes through the socket itself.
pub(crate) const PACKET: usize = 32 * 1024;
/// The longest at all: more than the kernel takes for arguments and environment together.
const LONGEST: u64 = 16 * 1024 * 1024;
/// The kernel's own limit, `SCM_MAX_FD`, less one for a memfd.
pub(crate) const MOST_DESCRIPTORS: usize = 252;
const CONTROL: usize = rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS + 1));

/// A text with a zero byte in it.
pub(crate) struct ZeroByte;

/// Writes one packet.
#[derive(Debug)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(kind: u8, number: u32) -> Self {
        let mut out = Self(Vec::with_capacity(64));
        out.u8(kind);
        out.u32(number);
        out
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.u32(value.cast_unsigned());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.u64(value.cast_unsigned());
    }

    pub(crate) fn count(&mut self, value: usize) {
        // Never true of a packet that can be sent at all.
        self.u32(u32::try_from(value).unwrap_or(u32::MAX));
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A text in parts, ended by a zero byte.
    pub(crate) fn text(&mut self, parts: &[&[u8]]) -> Result<(), ZeroByte> {
        for part in parts {
            if memchr::memchr(0, part).is_some() {
                return Err(ZeroByte);
            }
            self.0.extend_from_slice(part);
        }
        self.0.push(0);
        Ok(())
    }

    pub(crate) fn list<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T) -> Result<(), ZeroByte>,
    ) -> Result<(), ZeroByte> {
        self.count(items.len());
        items.into_iter().try_for_each(|item| each(self, item))
    }

    pub(crate) fn exited(&mut self, exited: &Exited) {
        let (how, value) = match exited.status {
            ExitStatus::Unknown => (0, 0),
            ExitStatus::Code(code) => (1, code),
            ExitStatus::Signal { signal, core_dumped } => {
                (2 + u8::from(core_dumped), signal.number())
            }
        };
        self.u8(how);
        self.i32(value);
        self.duration(exited.at);
        self.u8(u8::from(exited.usage.is_some()));
        if let Some(usage) = exited.usage {
            self.duration(usage.user_time);
            self.duration(usage.system_time);
            self.u64(usage.max_rss_bytes);
        }
    }

    fn duration(&mut self, span: Duration) {
        self.u64(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Reads one packet. Every method is `None` at the end of a packet that is too short.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }

    /// A number of things of at least `size` bytes each, which must still be there.
    pub(crate) fn count(&mut self, size: usize) -> Option<usize> {
        let count = usize::try_from(self.u32()?).ok()?;
        (count.checked_mul(size)? <= self.0.len()).then_some(count)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.count(1)?;
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn text(&mut self) -> Option<&'a CStr> {
        let text = CStr::from_bytes_until_nul(self.0).ok()?;
        self.0 = self.0.get(text.count_bytes() + 1..)?;
        Some(text)
    }

    pub(crate) fn texts(&mut self) -> Option<Vec<&'a CStr>> {
        (0..self.count(1)?).map(|_| self.text()).collect()
    }

    pub(crate) fn exited(&mut self) -> Option<Exited> {
        let (how, value) = (self.u8()?, self.i32()?);
        let status = match how {
            1 => ExitStatus::Code(value),
            2 | 3 => ExitStatus::Signal { signal: Signal::new(value).ok()?, core_dumped: how == 3 },
            _ => ExitStatus::Unknown,
        };
        let at = self.duration()?;
        let usage = match self.u8()? {
            0 => None,
            _ => Some(ResourceUse {
                user_time: self.duration()?,
                system_time: self.duration()?,
                max_rss_bytes: self.u64()?,
            }),
        };
        Some(Exited { status, at, usage })
    }

    fn duration(&mut self) -> Option<Duration> {
        self.u64().map(Duration::from_nanos)
    }
}

/// Sends one packet, whole or not at all. `WouldBlock` when the socket is full.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    packet: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if fds.len() > MOST_DESCRIPTORS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors for one message",
        ));
    }
    if packet.len() <= PACKET {
        return send_short(socket, packet, fds);
    }
    let file = rustix::fs::memfd_create(c"kissops-packet", MemfdFlags::CLOEXEC)?;
    let mut rest = packet;
    while !rest.is_empty() {
        let n = rustix::io::write(&file, rest)?;
        rest = rest.get(n..).unwrap_or_default();
    }
    let all: Vec<BorrowedFd<'_>> =
        std::iter::once(file.as_fd()).chain(fds.iter().copied()).collect();
    let head: Vec<u8> =
        std::iter::once(kind::LONG).chain(packet.iter().skip(1).take(4).copied()).collect();
    send_short(socket, &head, &all)
}

fn send_short(socket: BorrowedFd<'_>, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(packet)], &mut control, flags))?;
    Ok(())
}

/// One packet and what came with it.
#[derive(Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) kind: u8,
    /// The request's number.
    pub(crate) number: u32,
    pub(crate) body: Reader<'a>,
    pub(crate) fds: Vec<OwnedFd>,
    /// Some of its descriptors are lost, for this process may have no more: whoever asked has to be told.
    pub(crate) cut: bool,
}

/// What [`receive`] fills: reused, so that it costs no memory per packet.
#[derive(Debug)]
pub(crate) struct Buffer {
    short: Vec<u8>,
    long: Vec<u8>,
}

impl Buffer {
    pub(crate) fn new() -> Self {
        Self { short: vec![0; PACKET], long: Vec::new() }
    }

    /// One that holds no memory and receives nothing, in place of one that is in use.
    pub(crate) const fn empty() -> Self {
        Self { short: Vec::new(), long: Vec::new() }
    }
}

/// Receives one packet; `None` at the end of the connection.
///
/// # Errors
/// `WouldBlock` when there is none; `InvalidData` for one that is not ours, after which the next can be received.
pub(crate) fn receive<'a>(
    socket: BorrowedFd<'_>,
    buffer: &'a mut Buffer,
) -> io::Result<Option<Packet<'a>>> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut space = [MaybeUninit::uninit(); CONTROL];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::io::retry_on_intr(|| {
        recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut buffer.short)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if message.bytes == 0 {
        return Ok(None);
    }
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Err(damaged("a packet was cut off"));
    }
    let cut = message.flags.contains(ReturnFlags::CTRUNC);
    buffer.long = Vec::new();
    let mut bytes = buffer.short.get(..message.bytes).unwrap_or_default();
    if bytes.first() == Some(&kind::LONG) && !cut {
        if fds.is_empty() {
            return Err(damaged("a long packet came without its memfd"));
        }
        let file = fds.remove(0);
        buffer.long = read_whole(&file)?;
        bytes = &buffer.long;
    }
    let mut body = Reader(bytes);
    match (body.u8(), body.u32()) {
        (Some(kind), Some(number)) => Ok(Some(Packet { kind, number, body, fds, cut })),
        _ => Err(damaged("a packet is too short")),
    }
}

fn read_whole(file: &OwnedFd) -> io::Result<Vec<u8>> {
    let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(u64::MAX);
    if size > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet is too long"));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(file, rest, filled as u64)? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            n => filled += n,
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_survives_the_wire_and_a_cut_one_is_refused() {
        for status in [
            ExitStatus::Unknown,
            ExitStatus::Code(-1),
            ExitStatus::Signal { signal: Signal::KILL, core_dumped: true },
        ] {
            let usage = Some(ResourceUse { max_rss_bytes: 7, ..ResourceUse::default() });
            let exited = Exited { status, at: Duration::from_nanos(5), usage };
            let mut out = Writer::new(kind::EXIT, 0);
            out.exited(&exited);
            let packet = out.finish();
            assert_eq!(Reader(&packet[5..]).exited(), Some(exited));
            for end in 5..packet.len() {
                assert_eq!(Reader(&packet[5..end]).exited(), None);
            }
        }
    }
}
