//! The `partnergate` program: everything is in the library.

/// A request is many small allocations; mimalloc serves them with a fraction of the C library's instructions.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    partnergate::cli::main()
}
