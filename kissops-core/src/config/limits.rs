//! The `limits` table.

use super::{node::Value, reader::Item};
use crate::{
    ByteSize,
    supervisor::limits::{Limits, Resource, Rlimit},
};

const RLIMITS: [(&str, Resource); 8] = [
    ("nofile", Resource::Nofile),
    ("core", Resource::Core),
    ("nproc", Resource::Nproc),
    ("fsize", Resource::Fsize),
    ("as", Resource::As),
    ("stack", Resource::Stack),
    ("memlock", Resource::Memlock),
    ("cpu", Resource::Cpu),
];

/// Samples above `max_rss` that lead to a restart where the file does not say.
const SAMPLES: u32 = 3;

pub(super) fn read(item: &Item<'_>) -> Option<Limits> {
    let section = item.section("write limits = { memory_max = \"350MB\", pids_max = 200 }")?;
    // Less than a megabyte would kill any program at its start.
    let memory = |key| section.get(key).and_then(|item: Item<'_>| size(&item, 1 << 20, u64::MAX));
    let mut limits = Limits {
        memory_high: memory("memory_high"),
        memory_max: memory("memory_max"),
        memory_swap_max: section.get("memory_swap_max").and_then(|item| size(&item, 0, u64::MAX)),
        cpu_weight: section.get("cpu_weight").and_then(|item| item.integer(1..=10_000)),
        cpu_max_percent: section.get("cpu_max").and_then(|item| percent(&item)),
        pids_max: section
            .get("pids_max")
            .and_then(|item| item.integer(1..=4_194_304_u32))
            .map(u64::from),
        max_rss: memory("max_rss"),
        max_rss_samples: 0,
        rlimits: Vec::new(),
    };
    let samples = section.get("max_rss_samples").and_then(|item| {
        if section.table.get("max_rss").is_none() {
            return item.fail("has no effect without max_rss", "");
        }
        item.integer(1..=1_000)
    });
    if limits.max_rss.is_some() {
        limits.max_rss_samples = samples.unwrap_or(SAMPLES);
    }
    for (key, resource) in RLIMITS {
        if let Some(value) = section.get(key).and_then(|item| rlimit(&item, resource)) {
            limits.rlimits.push(Rlimit { resource, value });
        }
    }
    if let (Some(high), Some(max)) = (limits.memory_high, limits.memory_max)
        && high > max
        && let Some(item) = section.get("memory_high")
    {
        let _ = item.fail::<()>(
            format!("must be at most memory_max, {max}"),
            "memory_high slows the instance down, memory_max kills it",
        );
    }
    section.finish();
    Some(limits)
}

/// A size such as `"100MB"` from `least` to `most` bytes.
pub(super) fn size(item: &Item<'_>, least: u64, most: u64) -> Option<ByteSize> {
    const LIKE: &str = "write it like \"512KiB\", \"100MB\" or \"2GB\"";
    let size: ByteSize = if let Value::Integer(Some(number), _) = item.node.value {
        let help = format!("sizes need a unit: {} = \"{number}MB\"", item.key());
        return item.fail("must be a size, not an integer", help);
    } else {
        item.parse("a size", LIKE)?
    };
    if size.0 < least {
        return item.fail(format!("must be at least {}", ByteSize(least)), "");
    }
    if size.0 > most {
        return item.fail(format!("must be at most {}", ByteSize(most)), "");
    }
    Some(size)
}

fn percent(item: &Item<'_>) -> Option<u32> {
    const HELP: &str = "percent of one core, for example cpu_max = \"150%\"";
    let Value::String(text) = &item.node.value else {
        return item.fail(format!("must be a string, not {}", item.node.value.kind()), HELP);
    };
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<u32>().ok());
    match number.filter(|number| (1..=100_000).contains(number)) {
        Some(number) => Some(number),
        None => item.fail("must be from \"1%\" to \"100000%\"", HELP),
    }
}

/// `None` is an error, `Some(None)` no limit.
#[expect(clippy::option_option, reason = "an error, no limit, or a limit")]
fn rlimit(item: &Item<'_>, resource: Resource) -> Option<Option<u64>> {
    if let Value::String(text) = &item.node.value {
        if matches!(text.as_str(), "unlimited" | "infinity") {
            return Some(None);
        }
        let in_bytes = matches!(
            resource,
            Resource::Core | Resource::Fsize | Resource::As | Resource::Stack | Resource::Memlock
        );
        if in_bytes {
            return size(item, 0, u64::MAX).map(|size| Some(size.0));
        }
        return item.fail("must be a number or \"unlimited\"", "");
    }
    item.integer(0..=i64::MAX).and_then(|number| u64::try_from(number).ok()).map(Some)
}
