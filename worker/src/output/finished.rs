//! The config that a result ends with: its layers, its history, its times. It does not know where the
//! result goes.

use crate::WorkerError;
use crate::layer::Stack;
use crate::worker::Target;
use jiff::Timestamp;
use kiln_oci::{History, ImageConfig};

/// The config with its layers and times. A time comes from when a layer was made, not from now: so the
/// same result has the same config. Where nothing has a time, it is the beginning of 1970.
pub(super) fn finished(target: &Target, stack: &Stack) -> Result<ImageConfig, WorkerError> {
    let mut config = target.config.clone();
    config.rootfs.diff_ids = stack.diff_ids()?;
    let epoch = target.source_date_epoch_s;
    let text = |s: i64| Timestamp::from_second(s).map_or_else(|_| String::new(), |t| t.to_string());
    add_missing_history(&mut config, stack.0.len());
    let mut layers = stack.0.iter();
    let mut last = stack.0.iter().find_map(|l| l.created_s);
    for line in &mut config.history {
        let made = if line.empty_layer { None } else { layers.next().and_then(|l| l.created_s) };
        if line.created.is_some() {
            continue;
        }
        last = made.or(last);
        line.created = epoch.or(last).map(text);
    }
    let of_history = config.history.iter().rev().find_map(|h| h.created.clone());
    config.created = epoch.map(text).or(of_history).or_else(|| Some(text(0)));
    for line in &mut config.history {
        if line.created.is_none() {
            line.created.clone_from(&config.created);
        }
    }
    Ok(config)
}

/// Sees to it that each layer has its line in the history: a folder as a base has none of its own.
fn add_missing_history(config: &mut ImageConfig, layers: usize) {
    let told = config.history.iter().filter(|line| !line.empty_layer).count();
    let line = || History { created_by: "FROM context".to_owned(), ..History::default() };
    config.history.splice(0..0, std::iter::repeat_with(line).take(layers.saturating_sub(told)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_oci::Platform;

    fn target() -> Target {
        let config = ImageConfig::default();
        Target { platform: Platform::host(), edge: None, config, source_date_epoch_s: None }
    }

    #[test]
    fn a_result_without_any_layer_says_the_same_time_on_every_day() {
        let line = History { created_by: "ENV A=1".to_owned(), empty_layer: true, ..History::default() };
        let mut target = target();
        target.config.history.push(line);
        let config = finished(&target, &Stack::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(config.created.as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(config.history[0].created, config.created);
        target.source_date_epoch_s = Some(1_700_000_000);
        let config = finished(&target, &Stack::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(config.created.as_deref(), Some("2023-11-14T22:13:20Z"));
    }

    #[test]
    fn what_is_set_on_a_base_without_layers_of_its_own_has_the_time_of_the_base() {
        let base = History { created: Some("2024-05-06T07:08:09Z".to_owned()), ..History::default() };
        let line = History { created_by: "ENV A=1".to_owned(), empty_layer: true, ..History::default() };
        let mut target = target();
        target.config.history.extend([History { empty_layer: true, ..base }, line]);
        let config = finished(&target, &Stack::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(config.created.as_deref(), Some("2024-05-06T07:08:09Z"));
        assert_eq!(config.history[1].created, config.created);
    }
}
