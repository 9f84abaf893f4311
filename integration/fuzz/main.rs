//! libFuzzer against one of Pathloom's readers: the one that `FUZZ_TARGET` names. `make fuzz` builds and starts it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pathloom::fuzzing::{TARGETS, Target};
use std::sync::LazyLock;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let asked = std::env::var("FUZZ_TARGET").unwrap_or_default();
    TARGETS.iter().find(|target| target.name == asked).unwrap_or_else(|| {
        let names = TARGETS.map(|target| target.name).join(", ");
        eprintln!("fuzz: FUZZ_TARGET is {asked:?} and must be one of {names}");
        std::process::exit(64)
    })
});

/// Puts what is well formed into the folder that mutations start from.
fn sow() {
    let Some(folder) = std::env::var_os("FUZZ_SEEDS") else { return };
    for (n, seed) in TARGET.seeds.iter().enumerate() {
        let file = std::path::Path::new(&folder).join(format!("seed-{n}"));
        if let Err(error) = std::fs::write(&file, seed) {
            eprintln!("fuzz: {}: {error}", file.display());
            std::process::exit(1);
        }
    }
}

fuzz_target!(
    init: sow(),
    |bytes: &[u8]| (TARGET.read)(bytes)
);
