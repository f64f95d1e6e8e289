//! Lends the scratch tree the dependencies that the checkout has built already: most of a build, and the same for both.
//!
//! Not the crates of the workspace, which differ by the fault.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use crate::failure::{Done, While};

/// From one build folder of cargo's (`target/debug`) to another, all but the packages in `ours`. Lends nothing where
/// nothing was built.
pub(super) fn lend(from: &Path, to: &Path, ours: &[String]) -> Done {
    let mut lent = BTreeSet::new();
    for unit in names(&from.join(".fingerprint"))? {
        let Some((package, hash)) = unit.rsplit_once('-') else { continue };
        if ours.iter().any(|ours| ours == package) {
            continue;
        }
        for part in [".fingerprint", "build"] {
            copy(&from.join(part).join(&unit), &to.join(part).join(&unit))?;
        }
        lent.insert(hash.to_owned());
    }
    for file in names(&from.join("deps"))? {
        let hash = file.rsplit('-').next().and_then(|end| end.split('.').next());
        if hash.is_some_and(|hash| lent.contains(hash)) {
            copy(&from.join("deps").join(&file), &to.join("deps").join(&file))?;
        }
    }
    Ok(())
}

fn names(folder: &Path) -> Done<Vec<String>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).when(folder.display())?;
    let name = |entry: std::io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name());
    let names = entries.map(name).collect::<Result<Vec<_>, _>>().when(folder.display())?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// A file or a folder, with its times: by them cargo knows that nothing has changed.
fn copy(from: &Path, to: &Path) -> Done {
    if from.is_dir() {
        return names(from)?.iter().try_for_each(|name| copy(&from.join(name), &to.join(name)));
    }
    if !from.exists() || to.exists() {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).when(folder.display())?;
    }
    // What is there is whole, also after a run that was broken off.
    let part = to.with_file_name(".part");
    fs::copy(from, &part).when(to.display())?;
    let modified = fs::metadata(from).and_then(|data| data.modified()).when(from.display())?;
    let file = File::open(&part).when(part.display())?;
    file.set_modified(modified).when(part.display())?;
    fs::rename(&part, to).when(to.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_lent_with_its_times_and_nothing_else() {
        let root = std::env::temp_dir().join(format!("xtask-lend-{}", std::process::id()));
        let (from, to) = (root.join("from"), root.join("to"));
        let files = [
            (".fingerprint/serde-core-00aa/lib", true),
            ("build/serde-core-00aa/out/x", true),
            ("deps/libserde_core-00aa.rlib", true),
            (".fingerprint/ours-00bb/lib", false),
            ("deps/layer-00bb", false),
            ("deps/of-nobody-00cc.d", false),
        ];
        for (file, _) in files {
            fs::create_dir_all(from.join(file).parent().expect("a folder")).expect("temporary folder");
            fs::write(from.join(file), file).expect("write");
        }
        lend(&from, &to, &["ours".to_owned()]).expect("lent");
        lend(&from, &to, &["ours".to_owned()]).expect("a second time");
        let modified = |path: &Path| fs::metadata(path).expect("there").modified().expect("has times");
        for (file, lent) in files {
            assert_eq!(to.join(file).exists(), lent, "{file}");
            assert!(!lent || modified(&from.join(file)) == modified(&to.join(file)), "{file}");
        }
        fs::remove_dir_all(root).expect("temporary folder");
    }
}
