//! `semel-count CASE CALLS`: makes so many calls, under callgrind. Without arguments it names the cases.

use std::process::ExitCode;

use semel_bench_library::case::ALL;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, calls] = arguments.as_slice() else {
        ALL.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let case = ALL.iter().find(|(known, _)| known == name);
    let (Some((_, make)), Ok(calls)) = (case, calls.parse::<u64>()) else {
        eprintln!("semel-count CASE CALLS, with a case that `semel-count` names");
        return ExitCode::FAILURE;
    };
    let mut call = make();
    (0..calls).for_each(|_| call());
    ExitCode::SUCCESS
}
