//! What criterion found, kept as other figures are.

use std::error::Error;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::results::{Results, Spread};

/// A case of `bench/library`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) case: String,
    /// Nanoseconds of one call, with the ends of criterion's confidence interval.
    pub(super) ns: Spread,
}

/// Reads all of `folder` into the file `json`.
pub(super) fn take_over(folder: &Path, json: &Path) -> Result<(), Box<dyn Error>> {
    let mut rows = Vec::new();
    for case in std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let new = case?.path().join("new");
        if !new.is_dir() {
            continue;
        }
        let read = |name: &str| -> Result<Value, Box<dyn Error>> {
            Ok(serde_json::from_slice(&std::fs::read(new.join(name))?)?)
        };
        let (name, estimates) = (read("benchmark.json")?, read("estimates.json")?);
        let median = &estimates["median"];
        let number = |value: &Value| value.as_f64().ok_or("criterion's estimates have another shape");
        let interval = &median["confidence_interval"];
        rows.push(Row {
            case: name["full_id"].as_str().ok_or("criterion's name has another shape")?.to_owned(),
            ns: Spread {
                median: number(&median["point_estimate"])?,
                least: number(&interval["lower_bound"])?,
                most: number(&interval["upper_bound"])?,
            },
        });
    }
    rows.sort_by(|a, b| a.case.cmp(&b.case));
    Results::new(&std::env::temp_dir(), rows)?.write(Some(json))
}
