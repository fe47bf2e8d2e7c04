//! The `partnergate` program: everything is in the library.

fn main() -> std::process::ExitCode {
    partnergate::cli::main()
}
