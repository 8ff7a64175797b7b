//! Names and numbers that identify things.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Error, Result, Timestamp};

/// The name of an instance: `web`, or `twitch@el_serda` for a member of a template.
///
/// Letters, digits, `_`, `-`, `.` and at most one `@`; at most 64 bytes on each side of it; it does not start with
/// `.` or `-`. So it is safe as a file name, a cgroup name and a word of a shell.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName(Arc<str>);

impl InstanceName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] says which rule it breaks.
    pub fn new(name: &str) -> Result<Self> {
        let wrong = |rule: &str| {
            Err(Error::invalid(format!("instance name `{}`", name.escape_debug()), rule))
        };
        let (base, member) =
            name.split_once('@').map_or((name, None), |(base, member)| (base, Some(member)));
        for part in [Some(base), member].into_iter().flatten() {
            if part.is_empty() || part.len() > 64 {
                return wrong("must have 1 to 64 bytes before and after its @");
            }
            if part.starts_with(['.', '-']) {
                return wrong("may not start with . or -");
            }
            if !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
                return wrong(
                    "may hold only letters, digits, _, - and ., and one @ between template and member",
                );
            }
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The template that this is a member of, if it is one: `twitch` of `twitch@el_serda`.
    #[must_use]
    pub fn template(&self) -> Option<&str> {
        self.0.split_once('@').map(|(template, _)| template)
    }

    /// The member's own part: `el_serda` of `twitch@el_serda`; the whole name where there is no template.
    #[must_use]
    pub fn member(&self) -> &str {
        self.0.split_once('@').map_or(&self.0, |(_, member)| member)
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl FromStr for InstanceName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl Serialize for InstanceName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for InstanceName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(d)?).map_err(de::Error::custom)
    }
}

/// One life of an instance's process. Ids sort by the time at which they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub i64);

/// The number of a stored record that was made at a point in time. Ids sort by that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordId(pub i64);

/// The kernel's random name of one boot of one machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub String);

/// What names a process for good: a pid alone is used again, together with these it is not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The process id.
    pub pid: i32,
    /// Clock ticks from boot to the process' start (field 22 of `/proc/PID/stat`, see proc(5)).
    pub start_ticks: u64,
    /// The boot in which those ticks count.
    pub boot_id: BootId,
}

/// A number for bytes that is the same in every build and on every machine, unlike std's hashes (FNV-1a, 64 bits). It
/// tells accidents apart; it withstands no attacker.
#[must_use]
pub fn stable_hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    parts.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Makes 63-bit ids that grow with time: microseconds since 2020, then a number that tells makers apart.
///
/// Two ids of one maker never collide, and each is larger than the one before, even when the clock steps back.
#[derive(Debug)]
pub struct IdMaker {
    last: i64,
    maker: i64,
}

/// 2020-01-01T00:00:00Z: leaves 51 bits of microseconds, enough until 2091.
const ID_EPOCH_US: i64 = 1_577_836_800_000_000;

impl IdMaker {
    /// How many bits of an id tell makers apart; the others are its time.
    pub const MAKER_BITS: u32 = 12;

    /// A maker told apart from others by the low 12 bits of `maker`; pick them at random for each process.
    #[must_use]
    pub fn new(maker: u64) -> Self {
        Self { last: 0, maker: i64::try_from(maker & ((1 << Self::MAKER_BITS) - 1)).unwrap_or(0) }
    }

    /// Makes the ids to come larger than `id`, which another maker may have made.
    pub fn resume_after(&mut self, id: i64) {
        self.last = self.last.max(id >> Self::MAKER_BITS);
    }

    /// The next id, made at `at`.
    pub fn next(&mut self, at: Timestamp) -> i64 {
        let tick = (at.0 - ID_EPOCH_US).clamp(0, (1 << 51) - 1).max(self.last + 1);
        self.last = tick;
        (tick << Self::MAKER_BITS) | self.maker
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_harm_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "-x",
            "a/b",
            "a b",
            "a@",
            "@a",
            "a@b@c",
            "a@.b",
            "ä",
            "a\0",
            "a\n",
            &"x".repeat(65),
        ] {
            assert!(InstanceName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["web", "twitch@el_serda", "a.b-c_1", &"x".repeat(64)] {
            assert!(InstanceName::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn ids_grow_even_when_the_clock_steps_back() {
        let mut maker = IdMaker::new(7);
        let first = maker.next(Timestamp(ID_EPOCH_US + 1_000_000));
        let second = maker.next(Timestamp(ID_EPOCH_US));
        assert!(first < second);
    }
}
