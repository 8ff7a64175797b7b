//! The thread that reads all pipes and writes all files: one epoll, edge-triggered, one chunk of one pipe per turn.

use std::{
    collections::{HashMap, VecDeque},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, PoisonError,
        atomic::Ordering,
        mpsc::{Receiver, TryRecvError},
    },
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};
use tokio::sync::oneshot;

use super::{
    LogFormat, LogPolicy, LogStream,
    capture::{CaptureProblem, Command, CounterMap, Counters, LineWatch, Output, SharedPipes},
    file::LogFile,
    format::{self, Layout, Tail},
    keep::Keeper,
    spool::{self, Before, Carry, Chunk, Spool},
};
use crate::{
    Error, Result, Timestamp,
    id::{InstanceName, RunId},
    redact::{Masks, Redactor},
};

/// Most bytes of one pipe in one turn: what fits the second-level cache, and what one chatty instance may keep the
/// others waiting for.
const CHUNK: usize = 256 << 10;
/// Smaller chunks are not made for the sake of an exact size at rotation.
const LEAST_CHUNK: usize = 16 << 10;
/// Most bytes that a cut of a line waits for, lest a secret be divided: a pipe holds no more than so much.
const MOST_LOOKAHEAD: usize = 8 << 10;
/// After so many full reads in a row a pipe is made larger, so that its writer and we meet less often.
const FULL_READS: u8 = 4;
/// Buffers are given back after so long without output.
const CALM: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
const BELL: u64 = 0;

type Problems = Box<dyn Fn(CaptureProblem) + Send>;
type Clock = Box<dyn Fn() -> Timestamp + Send>;

/// One pipe.
struct Pipe {
    fd: OwnedFd,
    carry: Carry,
    stream: LogStream,
    run: RunId,
    instance: InstanceName,
    capacity: usize,
    full_reads: u8,
    queued: bool,
    /// Nobody has it open for writing any more.
    ended: bool,
}

struct Run {
    pipes: Vec<u64>,
    waiting: Vec<oneshot::Sender<()>>,
    watch: Option<LineWatch>,
}

struct Instance {
    policy: Arc<LogPolicy>,
    log: LogFile,
    pipes: usize,
    counters: Arc<Counters>,
    /// Lines and bytes dropped, and why, since it cannot be written.
    trouble: Option<Trouble>,
}

struct Trouble {
    lines: u64,
    bytes: u64,
    cause: String,
}

#[derive(Default)]
struct Buffers {
    raw: Vec<u8>,
    out: Vec<u8>,
    secrets: Vec<(usize, usize)>,
}

impl Buffers {
    /// Makes `out` of `raw`: how many bytes of it were used, and how many lines they are. `plain` bytes are written as
    /// they are and stay in `raw`; a file has room for `room` bytes before it is rotated.
    fn render(&mut self, layout: &Layout, masks: &Masks, plain: bool, room: u64) -> (usize, u64) {
        self.out.clear();
        if plain {
            let rotate_next = layout.tail == Tail::Keep && self.raw.len() as u64 >= room;
            return plain_part(&self.raw, rotate_next);
        }
        masks.find(&self.raw, &mut self.secrets);
        let done = format::format(layout, &self.raw, &self.secrets, &mut self.out);
        (done.taken, done.lines)
    }
}

/// How much is read and held.
struct Sizes {
    max_line: usize,
    lookahead: usize,
    /// Most bytes to read.
    limit: usize,
}

impl Sizes {
    /// `size`: of the log file so far.
    fn new(policy: &LogPolicy, masks: &Masks, size: u64) -> Self {
        let lookahead = masks.longest().min(MOST_LOOKAHEAD);
        let max_line = usize::try_from(policy.max_line.0).unwrap_or(CHUNK);
        let max_line = max_line.clamp(1, CHUNK / 2 - MOST_LOOKAHEAD);
        let room = usize::try_from(policy.rotate_size.0.saturating_sub(size)).unwrap_or(CHUNK);
        // A line must fit, lest it is cut for the sake of the file's size.
        let limit = room.clamp(LEAST_CHUNK.max(2 * (max_line + lookahead)), CHUNK);
        Self { max_line, lookahead, limit }
    }
}

pub(super) struct Engine {
    log_dir: PathBuf,
    redactor: Arc<Redactor>,
    masks: Arc<Masks>,
    spool: Spool,
    problems: Problems,
    clock: Clock,
    inbox: Receiver<Command>,
    bell: Arc<OwnedFd>,
    counters: CounterMap,
    epoll: OwnedFd,
    pipes: HashMap<u64, Pipe>,
    runs: HashMap<RunId, Run>,
    instances: HashMap<InstanceName, Instance>,
    ready: VecDeque<u64>,
    next: u64,
    keeper: Keeper,
    buffers: Buffers,
}

/// What a turn came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// There may be more.
    Again,
    /// Nothing until the kernel says so.
    Wait,
    /// The pipe is at its end, and all of it is written.
    End,
}

impl Engine {
    pub(super) fn new(
        log_dir: PathBuf,
        redactor: Arc<Redactor>,
        spool: Spool,
        (problems, clock): (Problems, Clock),
        (inbox, bell): (Receiver<Command>, Arc<OwnedFd>),
        counters: CounterMap,
    ) -> Result<Self> {
        let wrong = |e: Errno| Error::io("set up epoll for the output capture")(e);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(wrong)?;
        epoll::add(&epoll, &*bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)
            .map_err(wrong)?;
        Ok(Self {
            log_dir,
            masks: redactor.current(),
            redactor,
            spool,
            problems,
            clock,
            inbox,
            bell,
            counters,
            epoll,
            pipes: HashMap::new(),
            runs: HashMap::new(),
            instances: HashMap::new(),
            ready: VecDeque::new(),
            next: BELL + 1,
            keeper: Keeper::default(),
            buffers: Buffers::default(),
        })
    }

    pub(super) fn run(mut self) {
        let mut events = [MaybeUninit::uninit(); 64];
        loop {
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            let timeout = if !self.ready.is_empty() {
                Some(&at_once)
            } else if self.buffers.raw.capacity() > 0 {
                Some(&CALM)
            } else {
                None
            };
            let happened = match epoll::wait(&self.epoll, &mut events, timeout) {
                Ok((happened, _)) => happened,
                Err(Errno::INTR) => continue,
                Err(e) => {
                    tracing::error!(error = %e, "the output capture cannot wait for output and ends");
                    return;
                }
            };
            let calm = happened.is_empty();
            let mut rung = false;
            for event in happened.iter() {
                let (data, flags) = (event.data, event.flags);
                if data.u64() == BELL {
                    rung = true;
                    continue;
                }
                if let Some(pipe) = self.pipes.get_mut(&data.u64()) {
                    pipe.ended |= flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
                    if !pipe.queued {
                        pipe.queued = true;
                        self.ready.push_back(data.u64());
                    }
                }
            }
            if rung && !self.obey() {
                break;
            }
            // As many turns as there are pipes now, so that the kernel and the inbox are asked again in between.
            for _ in 0..self.ready.len() {
                self.next_turn();
            }
            if calm && self.ready.is_empty() {
                self.buffers = Buffers::default();
            }
        }
        self.last_round();
    }

    /// Follows the commands in the inbox; `false` means that the end was ordered.
    fn obey(&mut self) -> bool {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.bell, &mut count);
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Attach(output)) => self.attach(*output),
                Ok(Command::Policy(instance, policy)) => {
                    if let Some(known) = self.instances.get_mut(&instance) {
                        known.policy = policy;
                    }
                }
                Ok(Command::Drained(run, reply)) => match self.runs.get_mut(&run) {
                    Some(known) => known.waiting.push(reply),
                    None => drop(reply.send(())),
                },
                Ok(Command::Finish(run, reply)) => {
                    self.finish(run);
                    let _ = reply.send(());
                }
                Ok(Command::Share(run, reply)) => drop(reply.send(self.share(run))),
                Ok(Command::Remove(instance)) => self.remove(&instance),
                Ok(Command::Tidy) => {
                    let now = (self.clock)();
                    for instance in self.instances.values() {
                        self.keeper.tidy(instance.log.dir(), &instance.policy, now);
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Ok(Command::Close) | Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn attach(&mut self, output: Output) {
        let Output { instance, run, stdout, stderr, policy, watch } = output;
        let known = self.instances.entry(instance.clone()).or_insert_with(|| {
            let counters = Arc::<Counters>::default();
            let mut map = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
            map.insert(instance.clone(), Arc::clone(&counters));
            let dir = self.log_dir.join(instance.as_str());
            Instance {
                policy: Arc::clone(&policy),
                log: LogFile::new(dir),
                pipes: 0,
                counters,
                trouble: None,
            }
        });
        known.policy = policy;
        let fds = [Some((stdout, LogStream::Stdout)), stderr.map(|fd| (fd, LogStream::Stderr))];
        let mut tokens = Vec::with_capacity(2);
        for (fd, stream) in fds.into_iter().flatten() {
            let token = self.next;
            self.next += 1;
            let wanted = epoll::EventFlags::IN | epoll::EventFlags::ET;
            // Edges suffice, because a pipe gets turns until it is seen empty.
            if let Err(e) = epoll::add(&self.epoll, &fd, epoll::EventData::new_u64(token), wanted) {
                tracing::error!(%instance, run = run.0, error = %e, "output of a run cannot be watched and is not kept");
                continue;
            }
            let capacity = rustix::pipe::fcntl_getpipe_size(&fd).unwrap_or(LEAST_CHUNK);
            known.pipes += 1;
            tokens.push(token);
            self.pipes.insert(
                token,
                Pipe {
                    carry: self.spool.carry_of(run, stream),
                    fd,
                    stream,
                    run,
                    instance: instance.clone(),
                    capacity,
                    full_reads: 0,
                    queued: true,
                    ended: false,
                },
            );
            self.ready.push_back(token);
        }
        if !tokens.is_empty() {
            self.runs.insert(run, Run { pipes: tokens, waiting: Vec::new(), watch });
        }
    }

    fn share(&self, run: RunId) -> SharedPipes {
        let tokens = self.runs.get(&run).map(|run| &*run.pipes).unwrap_or_default();
        let of = |stream| {
            let mut pipes = tokens.iter().filter_map(|token| self.pipes.get(token));
            pipes.find(|pipe| pipe.stream == stream)?.fd.try_clone().ok()
        };
        SharedPipes { stdout: of(LogStream::Stdout), stderr: of(LogStream::Stderr) }
    }

    fn next_turn(&mut self) {
        let Some(token) = self.ready.pop_front() else { return };
        let mut buffers = std::mem::take(&mut self.buffers);
        let turn = self.turn(token, &mut buffers, false);
        self.buffers = buffers;
        match turn {
            Turn::Again => self.ready.push_back(token),
            Turn::Wait => {
                if let Some(pipe) = self.pipes.get_mut(&token) {
                    pipe.queued = false;
                }
            }
            Turn::End => self.drop_pipe(token),
        }
    }

    /// Treats one chunk of one pipe. `flush` takes an unfinished line too.
    fn turn(&mut self, token: u64, buffers: &mut Buffers, flush: bool) -> Turn {
        let Some(pipe) = self.pipes.get_mut(&token) else { return Turn::End };
        let Some(instance) = self.instances.get_mut(&pipe.instance) else { return Turn::End };
        if self.redactor.generation() != self.masks.generation() {
            self.masks = self.redactor.current();
        }
        let policy = Arc::clone(&instance.policy);
        let size = instance.log.state().map_or(0, |(_, size)| size);
        let sizes = Sizes::new(&policy, &self.masks, size);
        buffers.raw.clear();
        buffers.raw.extend_from_slice(&pipe.carry.bytes);
        let (there, mut end) = match self.spool.peek(&pipe.fd, sizes.limit, &mut buffers.raw) {
            Ok(0) => (0, Some(Turn::End)),
            Ok(there) => (there, None),
            Err(Errno::AGAIN) if pipe.ended || flush => (0, Some(Turn::End)),
            Err(Errno::AGAIN) => return Turn::Wait,
            Err(Errno::INTR) => return Turn::Again,
            Err(e) => {
                tracing::error!(instance = %pipe.instance, run = pipe.run.0, error = %e, "cannot read output");
                return Turn::End;
            }
        };
        if buffers.raw.is_empty() {
            return Turn::End;
        }
        let now = (self.clock)();
        let usable = instance.prepare(&policy, now, &self.keeper);
        pipe.grow_if_full(there);
        let layout = Layout {
            format: policy.format,
            stream: pipe.stream,
            at: now,
            max_line: sizes.max_line,
            lookahead: sizes.lookahead,
            tail: if end.is_some() { Tail::Flush } else { Tail::Keep },
        };
        let room =
            usable.as_ref().map_or(u64::MAX, |size| policy.rotate_size.0.saturating_sub(*size));
        let plain = policy.format == LogFormat::Raw && self.masks.is_empty();
        let (used, lines) = buffers.render(&layout, &self.masks, plain, room);
        let (raw, rest) = buffers.raw.split_at_checked(used).unwrap_or((&buffers.raw, &[]));
        let out = if plain { raw } else { &buffers.out };
        if let Some(run) = self.runs.get_mut(&pipe.run) {
            run.look_for_line(raw);
        }
        instance.counters.bytes.fetch_add(there as u64, Ordering::Relaxed);
        let ctx = Write { problems: &self.problems, name: &pipe.instance, now };
        let begin = |before: Before<'_>| {
            self.spool.begin(before, (pipe.run, pipe.stream), &pipe.carry, rest).unwrap_or_else(|e| {
                // Memory is exhausted. The bots go on, unprotected against our death.
                tracing::error!(instance = %pipe.instance, error = %e, "cannot write the journal of the output capture");
                Chunk::unprotected(&pipe.carry)
            })
        };
        let chunk = match &usable {
            Ok(_) if used > 0 => instance.write(&ctx, begin, pipe.stream, out, lines),
            Err(cause) if used > 0 => {
                instance.dropped(&ctx, out, cause);
                begin(Before::NOTHING)
            }
            _ => begin(Before::NOTHING),
        };
        let done = self.spool.commit(&chunk, &pipe.fd, there, &mut pipe.carry, rest);
        if let Err(e) = done {
            tracing::error!(instance = %pipe.instance, run = pipe.run.0, error = %e, "cannot take output from its pipe");
            end = Some(Turn::End);
        }
        end.unwrap_or(Turn::Again)
    }

    fn finish(&mut self, run: RunId) {
        let tokens = self.runs.get(&run).map(|run| run.pipes.clone()).unwrap_or_default();
        for token in tokens {
            self.empty(token, true);
            self.drop_pipe(token);
        }
    }

    /// Takes what is in a pipe, and not what comes meanwhile: a stray process may print faster than this reads.
    fn empty(&mut self, token: u64, flush: bool) {
        let mut buffers = std::mem::take(&mut self.buffers);
        let most = self.pipes.get(&token).map_or(0, |pipe| pipe.capacity / LEAST_CHUNK + 2);
        for _ in 0..most {
            if self.turn(token, &mut buffers, flush) != Turn::Again {
                break;
            }
        }
        self.buffers = buffers;
    }

    fn drop_pipe(&mut self, token: u64) {
        let Some(pipe) = self.pipes.remove(&token) else { return };
        self.spool.discard(&pipe.carry);
        // Explicitly: the keeper's copy of the descriptor would keep it in the set.
        let _ = epoll::delete(&self.epoll, &pipe.fd);
        if let Some(instance) = self.instances.get_mut(&pipe.instance) {
            instance.pipes = instance.pipes.saturating_sub(1);
            if instance.pipes == 0 {
                instance.log.close();
            }
        }
        if let Some(run) = self.runs.get_mut(&pipe.run) {
            run.pipes.retain(|other| *other != token);
            if run.pipes.is_empty()
                && let Some(run) = self.runs.remove(&pipe.run)
            {
                for waiting in run.waiting {
                    let _ = waiting.send(());
                }
            }
        }
    }

    fn remove(&mut self, instance: &InstanceName) {
        let tokens: Vec<u64> =
            self.pipes.iter().filter(|(_, p)| p.instance == *instance).map(|(t, _)| *t).collect();
        for token in tokens {
            self.drop_pipe(token);
        }
        self.instances.remove(instance);
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).remove(instance);
    }

    /// Before the end: whole lines that wait are written, the rest stays in the pipes.
    fn last_round(&mut self) {
        let tokens: Vec<u64> = self.pipes.keys().copied().collect();
        for token in tokens {
            // A carry stays in the journal for the successor.
            self.empty(token, false);
        }
        self.keeper.stop();
    }
}

impl Pipe {
    /// Makes a pipe larger that is found full again and again; never one whose writer is slow.
    fn grow_if_full(&mut self, there: usize) {
        if there < self.capacity / 4 * 3 || self.capacity >= CHUNK {
            self.full_reads = 0;
            return;
        }
        self.full_reads += 1;
        if self.full_reads >= FULL_READS {
            self.full_reads = 0;
            self.grow(CHUNK);
        }
    }

    /// It is refused beyond the user's share (`pipe-user-pages-soft`): then it stays as it is.
    fn grow(&mut self, wanted: usize) {
        match rustix::pipe::fcntl_setpipe_size(&self.fd, wanted.min(spool::PIPE_MAX)) {
            Ok(size) => self.capacity = size,
            Err(_) => {
                self.capacity = rustix::pipe::fcntl_getpipe_size(&self.fd).unwrap_or(self.capacity);
            }
        }
    }
}

impl Run {
    fn look_for_line(&mut self, raw: &[u8]) {
        let found = self.watch.as_ref().is_some_and(|watch| {
            let mut lines = format::whole_lines(raw);
            lines.any(|line| watch.pattern.is_match(line))
        });
        if found && let Some(watch) = self.watch.take() {
            let _ = watch.found.send(());
        }
    }
}

struct Write<'a> {
    problems: &'a Problems,
    name: &'a InstanceName,
    now: Timestamp,
}

impl Instance {
    /// Opens and rotates as needed. The size of the file, or why there is none.
    fn prepare(
        &mut self,
        policy: &Arc<LogPolicy>,
        now: Timestamp,
        keeper: &Keeper,
    ) -> Result<u64, String> {
        let dir = self.log.dir().display().to_string();
        let opened = |e: std::io::Error| format!("cannot open {dir}/current: {e}");
        let first = self.log.state().is_none();
        let mut size = self.log.ensure(now).map_err(opened)?;
        if self.log.is_due(policy.rotate_size.0.max(1), policy.rotate_daily, now) {
            match self.log.rotate(now) {
                Ok(()) => {
                    keeper.tidy(self.log.dir(), policy, now);
                    size = self.log.ensure(now).map_err(opened)?;
                }
                // The file grows beyond its limit: better than to lose lines.
                Err(e) => tracing::warn!(%dir, error = %e, "cannot rotate a log"),
            }
        } else if first {
            keeper.tidy(self.log.dir(), policy, now);
        }
        Ok(size)
    }

    /// Writes `out` once the journal is open.
    fn write(
        &mut self,
        ctx: &Write<'_>,
        begin: impl FnOnce(Before<'_>) -> Chunk,
        stream: LogStream,
        out: &[u8],
        lines: u64,
    ) -> Chunk {
        let before = self.log.state().map_or(Before::NOTHING, |(file, size)| Before {
            instance: ctx.name.as_str(),
            file,
            size,
        });
        let chunk = begin(before);
        if let Some(trouble) = &self.trouble {
            let remark = self.remark(trouble, stream, ctx.now);
            if self.log.append(&remark, ctx.now).is_ok()
                && let Some(Trouble { lines, bytes, .. }) = self.trouble.take()
            {
                (ctx.problems)(CaptureProblem::Over { instance: ctx.name.clone(), lines, bytes });
            }
        }
        match self.log.append(out, ctx.now) {
            Ok(()) => {
                self.counters.lines.fetch_add(lines, Ordering::Relaxed);
            }
            Err((kept, e)) => {
                let cause = format!("cannot write {}/current: {e}", self.log.dir().display());
                let rest = out.get(kept..).unwrap_or_default();
                let gone = memchr::memchr_iter(b'\n', rest).count() as u64;
                self.counters.lines.fetch_add(lines.saturating_sub(gone), Ordering::Relaxed);
                self.dropped(ctx, rest, &cause);
                // The device may be another one by the next write.
                self.log.close();
            }
        }
        chunk
    }

    fn dropped(&mut self, ctx: &Write<'_>, what: &[u8], cause: &str) {
        let lines = memchr::memchr_iter(b'\n', what).count() as u64;
        let bytes = what.len() as u64;
        self.counters.dropped_lines.fetch_add(lines, Ordering::Relaxed);
        self.counters.dropped_bytes.fetch_add(bytes, Ordering::Relaxed);
        let trouble = self.trouble.get_or_insert_with(|| {
            let (instance, text) = (ctx.name.clone(), cause.to_owned());
            (ctx.problems)(CaptureProblem::Dropping { instance, cause: text });
            Trouble { lines: 0, bytes: 0, cause: cause.to_owned() }
        });
        trouble.lines += lines;
        trouble.bytes += bytes;
    }

    /// The line that tells a reader of the log of a gap.
    fn remark(&self, trouble: &Trouble, stream: LogStream, at: Timestamp) -> Vec<u8> {
        let text = format!(
            "kissops: {} lines ({} bytes) were dropped: {}\n",
            trouble.lines, trouble.bytes, trouble.cause
        );
        let stream = if self.policy.format == LogFormat::Raw { stream } else { LogStream::Stderr };
        let layout = Layout {
            format: self.policy.format,
            stream,
            at,
            max_line: usize::MAX / 2,
            lookahead: 0,
            tail: Tail::Flush,
        };
        let mut out = Vec::new();
        format::format(&layout, text.as_bytes(), &[], &mut out);
        out
    }
}

/// How much of `raw` is written as it is: all, or up to the last line's end where the file is to be rotated next.
fn plain_part(raw: &[u8], rotate_next: bool) -> (usize, u64) {
    let end = if rotate_next {
        memchr::memrchr(b'\n', raw).map_or(raw.len(), |at| at + 1)
    } else {
        raw.len()
    };
    let lines = memchr::memchr_iter(b'\n', raw.get(..end).unwrap_or_default()).count();
    (end, lines as u64)
}
