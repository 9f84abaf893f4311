//! The page at `/` and what it is made of, all within the binary: no network is needed, and the page may load nothing else.
//!
//! The files lie in `assets/` as the browser gets them; there is no build step. They are served below `/assets/DIGEST/`, and
//! the digest is that of all of them together, so a browser may keep them for good, modules find each other by their plain
//! names, and a page never mixes the files of two versions. `assets/vendor/` is other people's work, see its `README.md`.

use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// Where the page's own words are.
const PAGE: &str = include_str!("assets/index.html");
/// What stands in the page before each file's name.
const FOLDER: &str = "/assets/";
/// How many characters of the digest are used.
const DIGITS: usize = 16;

const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// A file's name, type and content.
pub type Asset = (&'static str, &'static str, &'static [u8]);

macro_rules! assets {
    ($($content_type:ident $name:literal),* $(,)?) => {
        &[$(($name, $content_type, include_bytes!(concat!("assets/", $name)))),*]
    };
}

const ASSETS: &[Asset] = assets![
    CSS "style.css",
    SCRIPT "app.js",
    SCRIPT "canary.js",
    SCRIPT "colour.js",
    SCRIPT "dom.js",
    SCRIPT "explain.js",
    SCRIPT "layout.js",
    SCRIPT "live.js",
    SCRIPT "merge.js",
    SCRIPT "mesh.js",
    SCRIPT "model.js",
    SCRIPT "picture.js",
    SCRIPT "requests.js",
    SCRIPT "service.js",
    SCRIPT "timeline.js",
    SCRIPT "vendor/graphology.umd.min.js",
    SCRIPT "vendor/sigma.min.js",
    TEXT "vendor/LICENSE-graphology.txt",
    TEXT "vendor/LICENSE-sigma.txt",
];

static DIGEST: LazyLock<String> = LazyLock::new(|| {
    let mut digest = Sha256::new();
    for (name, _, content) in ASSETS {
        digest.update(name.as_bytes());
        digest.update(content);
    }
    format!("{:x}", digest.finalize()).chars().take(DIGITS).collect()
});

/// The page, with the files' digest in their paths.
pub fn page() -> String {
    PAGE.replace(FOLDER, &format!("{FOLDER}{}/", *DIGEST))
}

/// The file at a path, while its digest is this version's.
pub fn find(path: &str) -> Option<&'static Asset> {
    let name = path.strip_prefix(FOLDER)?.strip_prefix(DIGEST.as_str())?.strip_prefix('/')?;
    ASSETS.iter().find(|(known, _, _)| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn folder() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/assets")
    }

    #[test]
    fn every_file_that_the_page_or_a_module_names_is_there() {
        let page = page();
        let named = page.split('"').filter(|word| word.starts_with(FOLDER));
        let paths: Vec<&str> = named.collect();
        assert!(paths.len() >= 4, "{page}");
        for path in paths {
            assert!(find(path).is_some(), "{path}");
        }
        for (name, _, content) in ASSETS.iter().filter(|(name, ..)| !name.starts_with("vendor/")) {
            let text = std::str::from_utf8(content).unwrap();
            for import in text.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(ASSETS.iter().any(|(known, ..)| *known == import), "{name} imports {import}");
            }
            assert!(text.lines().count() < 500, "{name} is too long");
        }
    }

    #[test]
    fn every_script_and_style_of_the_folder_is_served() {
        for entry in std::fs::read_dir(folder()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".js") || name.ends_with(".css") {
                assert!(ASSETS.iter().any(|(known, ..)| *known == name), "{name}");
            }
        }
    }

    #[test]
    fn files_of_another_version_are_not_served_under_its_name() {
        assert!(find(&format!("/assets/{}/app.js", *DIGEST)).is_some());
        for path in ["/assets/0123456789abcdef/app.js", "/assets/app.js", "/assets/", "/assets//app.js"] {
            assert!(find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn vendored_files_are_the_released_ones() {
        let notes = std::fs::read_to_string(folder().join("vendor/README.md")).unwrap();
        for (name, _, content) in ASSETS.iter().filter(|(name, ..)| name.ends_with(".min.js")) {
            let digest = format!("{:x}", Sha256::digest(content));
            let file = name.trim_start_matches("vendor/");
            assert!(notes.lines().any(|line| line.contains(file) && line.contains(&digest)), "{name}: {digest}");
        }
    }

    #[test]
    fn the_readmes_pictures_are_there_and_small() {
        let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
        let names: Vec<&str> =
            readme.split("(src/admin/assets/").skip(1).filter_map(|rest| rest.split(')').next()).collect();
        let pictures = names.iter().filter(|name| name.ends_with(".png"));
        let sizes: Vec<u64> = pictures.map(|name| folder().join(name).metadata().expect(name).len()).collect();
        assert!(sizes.len() >= 6 && sizes.iter().all(|size| *size < 200_000), "{names:?} {sizes:?}");
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere_and_nothing_is_inline() {
        assert!(!PAGE.contains("<style") && !PAGE.contains(" style=") && !PAGE.contains("http"), "{PAGE}");
        assert!(PAGE.split("<script").skip(1).all(|tag| tag.contains(" src=\"/assets/")), "{PAGE}");
        let own = ASSETS.iter().filter(|(name, ..)| !name.starts_with("vendor/"));
        for (name, _, content) in own {
            let text = String::from_utf8_lossy(content).replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("innerHTML"), "{name}");
        }
    }
}
