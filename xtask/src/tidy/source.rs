//! Rust source read by its indentation: which lines are tests, where a function ends.
//!
//! Not a parser. It relies on rustfmt, which puts the end of an item at the indentation of its start;
//! the step before this one in `cargo xtask ci` sees to that.

/// A line and its number, counted from 1.
pub(super) type Line<'a> = (usize, &'a str);

/// Whether the whole file is tests or benchmarks.
pub(super) fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.split('/').any(|part| part == "tests" || part == "benches")
}

/// The lines of a file without its `#[cfg(test)]` items.
pub(super) fn production_lines(text: &str) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut rest = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((number, line)) = rest.next() {
        if !line.trim_start().starts_with("#[cfg(test)]") {
            lines.push((number, line));
            continue;
        }
        let ends = |next: &str| {
            let code = next.trim_start();
            indentation(next) == indentation(line)
                && (code.starts_with('}') || code.ends_with(['}', ';', ',']))
        };
        rest.by_ref().find(|(_, next)| ends(next));
    }
    lines
}

/// A function with a body.
#[derive(Debug, PartialEq)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    pub(super) first_line: usize,
    /// From its `fn` to its closing brace, both counted.
    pub(super) length: usize,
}

pub(super) fn functions<'a>(lines: &[Line<'a>]) -> Vec<Function<'a>> {
    let mut functions = Vec::new();
    for (index, &(first_line, line)) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let end = lines[index..].iter().find(|(_, next)| {
            indentation(next) == indentation(line)
                && (next.trim_start().starts_with('}') || next.ends_with(['}', ';']))
        });
        if let Some(&(last_line, last)) = end
            && last.ends_with('}')
        {
            functions.push(Function { name, first_line, length: last_line - first_line + 1 });
        }
    }
    functions
}

/// The name, when the line opens a function.
pub(super) fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let qualifier = |word: &str| {
        word.starts_with("pub")
            || matches!(word, "async" | "const" | "unsafe" | "extern" | "\"C\"" | "default")
    };
    let end = after.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    let opens = before.split_whitespace().all(qualifier) && matches!(&after[end..=end], "(" | "<");
    (opens && end > 0).then(|| &after[..end])
}

fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
fn one() {}
#[cfg(test)]
use std::fmt;
trait Named {
    fn declared(
        &self,
    ) -> String;
    fn given(&self) -> String {
        if true {
        }
        String::new()
    }
    #[cfg(test)]
    #[must_use]
    fn only_tests_call_this() -> u8 {
        1
    }
}
pub(crate) async fn last<T>(
    t: T,
) where
    T: Copy,
{
}
#[cfg(test)]
mod tests {
    fn inner() {
    }
}
";

    #[test]
    fn items_for_tests_do_not_count_as_production() {
        let numbers: Vec<usize> = production_lines(FILE).iter().map(|line| line.0).collect();
        assert_eq!(numbers, [1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 18, 19, 20, 21, 22, 23, 24]);
    }

    #[test]
    fn functions_end_where_their_indentation_comes_back() {
        let found: Vec<_> = functions(&production_lines(FILE))
            .iter()
            .map(|function| (function.name, function.first_line, function.length))
            .collect();
        assert_eq!(found, [("one", 1, 1), ("given", 8, 5), ("last", 19, 6)]);
    }

    #[test]
    fn words_with_fn_in_them_are_no_functions() {
        for line in ["// the fn name(", "let f: fn (u8);", "    call(fn name(x))", "type F = dyn Fn (u8);"] {
            assert_eq!(function_name(line), None, "{line}");
        }
    }
}
