//! Times every case: `cargo bench -p semel-bench-library`.

use std::time::Duration;

use criterion::Criterion;
use semel_bench_library::case::ALL;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for (name, make) in ALL {
        criterion.bench_function(name, |bencher| bencher.iter(make()));
    }
    criterion.final_summary();
}
