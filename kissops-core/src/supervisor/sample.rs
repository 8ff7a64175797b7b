//! stub
#[derive(Clone, Debug)]
pub(crate) struct TreeSample { pub(crate) rss_bytes: u64, pub(crate) cpu_percent: Option<f64>, pub(crate) threads: u32, pub(crate) processes: u32 }
