//! What was probably meant: the nearest key, and the names that other process managers give to ours.

/// `text` as it may stand in a message: one line, not endless.
pub(super) fn shown(text: &str) -> String {
    let visible = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut short: String = text.chars().take(80).map(visible).collect();
    if short.len() < text.len() && text.chars().nth(80).is_some() {
        short.push('…');
    }
    short
}

/// The word of `known` that was probably meant.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word: String = word.chars().take(64).collect::<String>().to_ascii_lowercase();
    let distance =
        |candidate: &&str| strsim::damerau_levenshtein(&word, &candidate.to_ascii_lowercase());
    let near = known.iter().copied().min_by_key(distance)?;
    let allowed = (word.chars().count().max(near.len()) / 3).max(1);
    (distance(&near) <= allowed).then_some(near)
}

/// What other process managers call our keys.
const FOREIGN: [(&str, &str); 22] = [
    ("autorestart", "restart = \"always\""),
    ("cron_restart", "restart_schedule = \"0 4 * * *\""),
    ("depends_on", "requires = [\"…\"]"),
    ("directory", "cwd = \"…\""),
    ("environment", "env = { KEY = \"value\" }"),
    ("environment_file", "env_file = \"…\""),
    ("exec", "command = [\"program\", \"argument\"]"),
    ("health_check", "live = { http = \"http://…\" }"),
    ("healthcheck", "live = { http = \"http://…\" }"),
    ("interpreter", "command = [\"interpreter\", \"script\"]"),
    ("kill_timeout", "stop = { grace = \"30s\" }"),
    ("max_memory_restart", "limits = { max_rss = \"300MB\" }"),
    ("max_restarts", "start_limit = { starts = 5, within = \"5m\" }"),
    ("memory_max", "limits = { memory_max = \"300MB\" }"),
    ("numprocs", "[template.NAME] with instances = [\"…\"]"),
    ("script", "command = [\"program\", \"argument\"]"),
    ("start_timeout", "ready = { …, within = \"60s\" }"),
    ("startsecs", "ready = { delay = \"1s\" }"),
    ("stop_signal", "stop = { signal = \"SIGTERM\" }"),
    ("stop_timeout", "stop = { grace = \"30s\" }"),
    ("working_dir", "cwd = \"…\""),
    ("workdir", "cwd = \"…\""),
];

pub(super) fn unknown_help(key: &str, known: &[&'static str]) -> String {
    if let Some((_, ours)) = FOREIGN.iter().find(|(theirs, _)| *theirs == key)
        && ours.split([' ', '[']).next().is_some_and(|first| known.contains(&first))
    {
        return format!("here it is written {ours}");
    }
    if let Some(near) = nearest(key, known) {
        return format!("did you mean `{near}`?");
    }
    let mut names: Vec<&str> = known.to_vec();
    names.sort_unstable();
    names.dedup();
    format!("valid keys here: {}", names.join(", "))
}
