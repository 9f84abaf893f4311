//! Looks into a shared library before `ort` does: is it ONNX Runtime, which version, does it have our API?
//!
//! The only unsafe code of this crate. `ort` asserts what is asked here (a base that is not null, functions for our API),
//! so a library that lacks one would panic, and worse, `ort` keeps the first library whose version looks right for the
//! life of the process. It also never tells the version. Calling into a library cannot be made safe: one that exports
//! `OrtGetApiBase` with another signature, or crashes in its initialisers, takes the process down. The operator named it.
#![allow(unsafe_code)]

use libloading::Library;
use ort::sys::OrtApiBase;
use std::ffi::CStr;
use std::path::Path;

/// Why a library is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotUsable {
    /// The loader refuses it.
    #[error("it cannot be loaded: {0}")]
    Load(String),
    /// It exports no `OrtGetApiBase`, or that gives nothing.
    #[error("it is not ONNX Runtime")]
    Other,
    /// It is ONNX Runtime without the API that this binary was made for.
    #[error("it is ONNX Runtime {found}, 1.{} or later is needed", ort::MINOR_VERSION)]
    TooOld {
        /// Its version.
        found: String,
    },
}

/// The version of the ONNX Runtime in a library, if this binary can use it.
///
/// The library stays mapped: `ort` is about to load it, and unloading a stranger runs code that nobody asked for.
pub(super) fn version(path: &Path) -> Result<String, NotUsable> {
    // SAFETY: loading runs the library's initialisers, which is why the operator or the packager names it.
    let library = unsafe { Library::new(path) }.map_err(|error| NotUsable::Load(described(&error)))?;
    let found = inspect(&library);
    std::mem::forget(library);
    found
}

fn inspect(library: &Library) -> Result<String, NotUsable> {
    type GetApiBase = unsafe extern "system" fn() -> *const OrtApiBase;
    // SAFETY: the symbol of this name has this signature in every version of ONNX Runtime (`onnxruntime_c_api.h`).
    let get = unsafe { library.get::<GetApiBase>(b"OrtGetApiBase") }.map_err(|_| NotUsable::Other)?;
    // SAFETY: it takes nothing and returns null or a pointer to a static of the library, which stays mapped.
    let base = unsafe { get().as_ref() }.ok_or(NotUsable::Other)?;
    // SAFETY: the two functions of that static are part of the stable ABI; the string is a static of the library.
    let (version, api) = unsafe { ((base.GetVersionString)(), (base.GetApi)(ort::MINOR_VERSION)) };
    if version.is_null() {
        return Err(NotUsable::Other);
    }
    // SAFETY: not null, and terminated by the library.
    let found = unsafe { CStr::from_ptr(version) }.to_string_lossy();
    let found: String = found.chars().filter(|c| !c.is_control()).take(40).collect();
    if api.is_null() { Err(NotUsable::TooOld { found }) } else { Ok(found) }
}

fn described(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}
