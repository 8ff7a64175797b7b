//! [`Plan`]: a [`Launch`] as bytes. What goes over the keeper's socket is what a direct spawn uses too, so both start alike.

use std::{
    ffi::{CStr, OsStr},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use crate::{
    Error, Result,
    id::RunId,
    supervisor::{
        Credentials, Launch,
        limits::{Resource, Rlimit},
        sys::{Failure, Program, Step},
        wire::{Reader, Writer},
    },
};

/// The variable that marks all processes of a run, those that left its session too.
pub const RUN_MARK: &str = "KISSOPS_RUN";

/// Where a program is looked for when its environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What [`encode`] made, read in place.
pub(crate) struct Plan<'a> {
    pub(crate) run: RunId,
    pub(crate) candidates: Vec<&'a CStr>,
    pub(crate) argv: Vec<&'a CStr>,
    pub(crate) env: Vec<&'a CStr>,
    pub(crate) cwd: &'a CStr,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) umask: Option<u32>,
    pub(crate) rlimits: Vec<(u32, libc::rlimit64)>,
    pub(crate) cgroup: Option<&'a CStr>,
    pub(crate) note: &'a [u8],
}

/// Writes all of `launch` but its descriptors. Adds [`RUN_MARK`] to the environment.
///
/// # Errors
/// [`Error::InvalidConfig`] for an empty command, or a zero byte in an argument, a variable or a path.
pub(crate) fn encode(launch: &Launch, out: &mut Writer) -> Result<()> {
    let key = || format!("instance.{}", launch.instance);
    let Some(program) = launch.command.first().filter(|program| !program.is_empty()) else {
        return Err(Error::invalid(format!("{}.command", key()), "must name a program"));
    };
    let path = launch.env.get(OsStr::new("PATH")).map_or(DEFAULT_PATH, |path| path.as_bytes());
    let nul = |what: &str| Error::invalid(format!("{}.{what}", key()), "must not hold a zero byte");
    out.i64(launch.run.0);
    out.list(candidates(program.as_bytes(), path), |out, path| out.text(&[&path]))
        .map_err(|_| nul("command"))?;
    out.list(launch.command.iter(), |out, word| out.text(&[word.as_bytes()]))
        .map_err(|_| nul("command"))?;
    let mark = (OsStr::new(RUN_MARK).to_owned(), launch.run.0.to_string().into());
    let env = launch.env.iter().filter(|(name, _)| *name != RUN_MARK).chain([(&mark.0, &mark.1)]);
    out.list(env.collect::<Vec<_>>().into_iter(), |out, (name, value)| {
        out.text(&[name.as_bytes(), b"=", value.as_bytes()])
    })
    .map_err(|_| nul("env"))?;
    out.text(&[launch.cwd.as_os_str().as_bytes()]).map_err(|_| nul("cwd"))?;
    match &launch.credentials {
        None => out.u8(0),
        Some(Credentials { uid, gid, groups }) => {
            out.u8(1);
            out.u32(*uid);
            out.u32(*gid);
            out.count(groups.len());
            for group in groups {
                out.u32(*group);
            }
        }
    }
    out.u32(launch.umask.unwrap_or(u32::MAX));
    out.count(launch.rlimits.len());
    for Rlimit { resource, value } in &launch.rlimits {
        out.u32(number(*resource));
        out.u64(value.unwrap_or(libc::RLIM64_INFINITY));
    }
    let cgroup = launch.cgroup.as_ref().map_or(&b""[..], |path| path.as_os_str().as_bytes());
    out.text(&[cgroup]).map_err(|_| nul("cgroup"))?;
    out.bytes(&launch.note);
    Ok(())
}

impl<'a> Plan<'a> {
    /// Reads what [`encode`] wrote; `None` if it is damaged.
    pub(crate) fn decode(from: &mut Reader<'a>) -> Option<Self> {
        let run = RunId(from.i64()?);
        let candidates = from.texts()?;
        let argv = from.texts()?;
        let env = from.texts()?;
        let cwd = from.text()?;
        let credentials = match from.u8()? {
            0 => None,
            _ => Some(Credentials {
                uid: from.u32()?,
                gid: from.u32()?,
                groups: (0..from.count(4)?).map(|_| from.u32()).collect::<Option<_>>()?,
            }),
        };
        let umask = Some(from.u32()?).filter(|mask| *mask != u32::MAX);
        let rlimits = (0..from.count(12)?)
            .map(|_| Some((from.u32()?, both(from.u64()?))))
            .collect::<Option<_>>()?;
        let cgroup = Some(from.text()?).filter(|path| !path.is_empty());
        let note = from.bytes()?;
        Some(Self { run, candidates, argv, env, cwd, credentials, umask, rlimits, cgroup, note })
    }

    /// The program with its descriptors; `nofile` is what it gets unless the plan says otherwise.
    pub(crate) fn program(
        self,
        stdio: [BorrowedFd<'a>; 3],
        nofile: Option<libc::rlimit64>,
    ) -> Program<'a> {
        let inherited = nofile.map(|limit| (libc::RLIMIT_NOFILE, limit));
        Program {
            candidates: self.candidates,
            argv: self.argv,
            env: self.env,
            cwd: self.cwd,
            credentials: self.credentials,
            umask: self.umask,
            rlimits: inherited.into_iter().chain(self.rlimits).collect(),
            cgroup: self.cgroup,
            stdio,
        }
    }
}

fn both(value: u64) -> libc::rlimit64 {
    libc::rlimit64 { rlim_cur: value, rlim_max: value }
}

/// The files that `program` may mean, as execvp(3) would try them.
fn candidates<'a>(
    program: &'a [u8],
    path: &'a [u8],
) -> Box<dyn ExactSizeIterator<Item = Vec<u8>> + 'a> {
    if program.contains(&b'/') {
        return Box::new(std::iter::once(program.to_vec()));
    }
    // An empty entry would mean the working directory: nobody means that.
    let folders: Vec<&[u8]> =
        path.split(|byte| *byte == b':').filter(|dir| !dir.is_empty()).collect();
    Box::new(folders.into_iter().map(move |dir| [dir, b"/", program].concat()))
}

fn number(resource: Resource) -> u32 {
    match resource {
        Resource::Nofile => libc::RLIMIT_NOFILE,
        Resource::Core => libc::RLIMIT_CORE,
        Resource::Nproc => libc::RLIMIT_NPROC,
        Resource::Fsize => libc::RLIMIT_FSIZE,
        Resource::As => libc::RLIMIT_AS,
        Resource::Stack => libc::RLIMIT_STACK,
        Resource::Memlock => libc::RLIMIT_MEMLOCK,
        Resource::Cpu => libc::RLIMIT_CPU,
    }
}

/// The words of a launch that its error messages need, kept while the rest is on its way.
pub(crate) struct Words {
    program: String,
    cwd: String,
    user: String,
    cgroup: String,
}

impl Words {
    pub(crate) fn of(launch: &Launch) -> Self {
        let program = launch.command.first().map(|word| word.to_string_lossy().into_owned());
        Self {
            program: program.unwrap_or_default(),
            cwd: launch.cwd.display().to_string(),
            user: launch
                .credentials
                .as_ref()
                .map_or_else(String::new, |c| format!("{} (group {})", c.uid, c.gid)),
            cgroup: launch
                .cgroup
                .as_ref()
                .map_or_else(String::new, |path| path.display().to_string()),
        }
    }

    /// Of a program that has nothing else to it.
    pub(crate) fn program(path: &Path) -> Self {
        let program = path.display().to_string();
        Self { program, cwd: "/".to_owned(), user: String::new(), cgroup: String::new() }
    }

    /// What to tell the operator.
    pub(crate) fn error(&self, failure: Failure) -> Error {
        let Self { program, cwd, user, cgroup } = self;
        let what = match failure.step {
            Step::Clone => format!("start a process for `{program}`"),
            Step::Cgroup => format!("start `{program}` in the cgroup {cgroup}"),
            Step::Session => format!("give `{program}` a session of its own"),
            Step::Limit => {
                format!("set the resource limits of `{program}` (raising one needs root)")
            }
            Step::User => format!("become user {user} for `{program}`"),
            Step::Directory => format!("enter the working directory {cwd}"),
            Step::Stdio => format!("connect the output of `{program}`"),
            Step::Program if failure.errno == libc::ENOENT && program.contains('/') => {
                format!(
                    "run `{program}` (is it there, and the interpreter that its first line names?)"
                )
            }
            Step::Program if failure.errno == libc::ENOENT => {
                format!("run `{program}`: it is in no folder of PATH")
            }
            Step::Program if failure.errno == libc::ENOEXEC => {
                format!(
                    "run `{program}`: neither a program of this machine nor a script with a #! line"
                )
            }
            Step::Program => format!("run `{program}`"),
        };
        Error::Io { what, source: std::io::Error::from_raw_os_error(failure.errno) }
    }
}

/// The descriptors that a launch passes on: output, error, then those to keep.
pub(crate) fn descriptors(launch: &Launch) -> Vec<BorrowedFd<'_>> {
    [launch.stdout.as_fd(), launch.stderr.as_fd()]
        .into_iter()
        .chain(launch.kept.iter().map(std::os::fd::AsFd::as_fd))
        .collect()
}
