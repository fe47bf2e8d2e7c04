//! Compiling, and refusing at load what the virtual machine would not survive on a request.

use super::{ENTRYPOINT, PolicySource, at, builtins, syntax};
use crate::document::{Problem, Problems};
use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::RegoVM;
use regorus::rvm::instructions::Instruction;
use regorus::rvm::program::{Program, RuleType};
use regorus::{CompiledPolicy, Engine, Rc, Value};
use std::sync::Arc;

/// An interpreter without rules. An error in a body is a body that does not hold, as on the machine.
pub(super) fn engine() -> Engine {
    let mut engine = Engine::new();
    engine.set_strict_builtin_errors(false);
    engine
}

/// Parses one file.
pub(super) fn add(engine: &mut Engine, path: &str, text: &str, problems: &mut Problems) {
    if let Err(e) = engine.add_policy(path.to_owned(), text.to_owned()) {
        problems.push(located(path, &e.to_string()));
    }
}

/// Compiles for these rules, of which there is at least one, and checks the result.
pub(super) fn compile(
    engine: &mut Engine,
    source: &PolicySource,
    data: &Value,
    entrypoints: &[&str],
    problems: &mut Problems,
) -> Option<Arc<Program>> {
    let folder = source.files.iter().map(|(p, _)| p.as_str()).find(|p| p.ends_with(".rego")).unwrap_or("policies");
    let first = entrypoints.first().copied().unwrap_or(ENTRYPOINT);
    let entrypoint: Rc<str> = first.into();
    let compiled = match engine.compile_with_entrypoint(&entrypoint) {
        Ok(compiled) => compiled,
        Err(e) if e.to_string().contains("not a valid rule path") => {
            let reason = format!("no file has the rule `{first}`, which decides every request");
            problems.push(at(
                folder,
                0,
                0,
                reason,
                Some("keep the shipped `partnergate/` folder and add rules in `custom/`"),
            ));
            return None;
        }
        Err(e) => {
            problems.push(located(folder, &e.to_string()));
            return None;
        }
    };
    let program = match Compiler::compile_from_policy(&compiled, entrypoints) {
        Ok(program) => program,
        Err(e) => {
            let message = one_line(&e.error.to_string());
            let (file, line, column) = match &e.span {
                Some(span) => (span.source.get_path().to_string(), span.line, span.col),
                None => of_rule(engine, &message).unwrap_or_else(|| (folder.to_owned(), 0, 0)),
            };
            problems.push(at(&file, line, column, message, None));
            return None;
        }
    };
    let places = Places { program: &program, compiled: &compiled, folder };
    check(&places, problems);
    check_builtins(&places, problems);
    check_definitions(&places, problems);
    let mut vm = RegoVM::new();
    vm.load_program(program.clone());
    if let Err(e) = vm.set_data(data.clone()) {
        problems.file(folder, format!("a data file has a value where a rule stands: {e}"), None);
    }
    Some(program)
}

/// Whether the machine may be given a program that is not served: one that it would not survive is refused, whatever
/// builtins there are in it.
///
/// # Errors
/// Why not.
pub(super) fn survives(program: &Program, compiled: &CompiledPolicy) -> Result<(), String> {
    let mut problems = Problems::new();
    check(&Places { program, compiled, folder: "policies" }, &mut problems);
    problems.iter().next().map_or(Ok(()), |problem| Err(problem.reason.clone()))
}

/// Where instructions come from.
struct Places<'a> {
    program: &'a Program,
    compiled: &'a CompiledPolicy,
    folder: &'a str,
}

impl Places<'_> {
    /// File and line of an instruction. The program's own file names are those of other files as soon as a rule is compiled in
    /// another order than files are loaded; so the file is that of the definition that the instruction lies in.
    fn of(&self, pc: usize) -> (String, u32) {
        let line = self.program.get_instruction_span(pc).map_or(0, |span| narrow(span.line));
        let definitions = self.program.rule_infos.iter().flat_map(|rule| {
            let bodies = rule.definitions.iter().enumerate();
            bodies.flat_map(move |(n, bodies)| bodies.iter().map(move |start| (*start, rule, n)))
        });
        let begun = definitions.filter(|(start, ..)| usize::try_from(*start).is_ok_and(|start| start <= pc));
        let file = begun.max_by_key(|(start, ..)| *start).and_then(|(_, rule, n)| {
            let written = self.compiled.get_rules().get(&rule.name)?.get(n)?;
            Some(written.span().source.get_path().to_string())
        });
        (file.unwrap_or_else(|| self.folder.to_owned()), line)
    }

    fn problem(&self, pc: usize, reason: String) -> Problem {
        let (file, line) = self.of(pc);
        let column = self.program.get_instruction_span(pc).map_or(0, |span| narrow(span.column));
        at(&file, line, column, reason, None)
    }
}

/// No rule that could have two values at once. The machine takes such a rule for one that does not hold, so that `not`
/// on it would pass where Rego demands an error. Definitions with one and the same fixed value are no danger.
fn check_definitions(places: &Places<'_>, problems: &mut Problems) {
    for rule in &places.program.rule_infos {
        let one_value = matches!(rule.rule_type, RuleType::Complete) || rule.function_info.is_some();
        if !one_value || rule.definitions.len() < 2 || rule.early_exit_on_first_success {
            continue;
        }
        let second = rule.definitions.get(1).and_then(|bodies| bodies.first());
        let with_place = second.and_then(|pc| usize::try_from(*pc).ok()).and_then(|pc| {
            (pc..places.program.instructions.len()).find(|pc| places.program.get_instruction_span(*pc).is_some())
        });
        let (file, line) = with_place.map_or((places.folder.to_owned(), 0), |pc| places.of(pc));
        problems.push(at(
            &file,
            line,
            0,
            format!("`{}` has several definitions, which could give it more than one value", rule.name),
            Some("write them as one definition with `else`"),
        ));
    }
}

/// Builtins by allow-list, called as they are made.
fn check_builtins(places: &Places<'_>, problems: &mut Problems) {
    let program = places.program;
    for (pc, instruction) in program.instructions.iter().enumerate() {
        let Instruction::BuiltinCall { params_index } = instruction else { continue };
        let Some(params) = program.instruction_data.get_builtin_call_params(*params_index) else { continue };
        let Some(info) = program.get_builtin_info(params.builtin_index) else { continue };
        let reason = if !builtins::is_allowed(&info.name) {
            builtins::refusal(&info.name)
        } else if u64::from(info.num_args) != u64::from(params.num_args) {
            format!("`{}` takes {} arguments, not {}", info.name, info.num_args, params.num_args)
        } else {
            continue;
        };
        problems.push(places.problem(pc, reason));
    }
    // Those in the table that no instruction was found for are refused as well.
    for info in program.builtin_info_table.iter().filter(|i| !builtins::is_allowed(&i.name)) {
        let text = builtins::refusal(&info.name);
        if !problems.iter().any(|p| p.reason == text) {
            problems.push(at("policies", 0, 0, text, None));
        }
    }
}

/// No recursion (the machine overflows its stack on it, and the process with it); arguments of functions counted; no reference to a whole package or by a computed name (evaluation would depend on what else is loaded).
fn check(places: &Places<'_>, problems: &mut Problems) {
    let program = places.program;
    let mut calls: Vec<Vec<(usize, usize)>> = vec![Vec::new(); program.rule_infos.len()];
    let mut current: Option<usize> = None;
    let mut refuse = |pc: usize, reason: String| problems.push(places.problem(pc, reason));
    for (pc, instruction) in program.instructions.iter().enumerate() {
        match instruction {
            Instruction::RuleInit { rule_index, .. } => current = Some(usize::from(*rule_index)),
            Instruction::RuleReturn {} => current = None,
            Instruction::CallRule { rule_index, .. } => {
                if let Some(from) = current.and_then(|c| calls.get_mut(c)) {
                    from.push((usize::from(*rule_index), pc));
                }
            }
            Instruction::FunctionCall { params_index } => {
                let Some(params) = program.instruction_data.get_function_call_params(*params_index) else { continue };
                let callee = usize::from(params.func_rule_index);
                if let Some(from) = current.and_then(|c| calls.get_mut(c)) {
                    from.push((callee, pc));
                }
                let Some(rule) = program.rule_infos.get(callee) else { continue };
                let wanted = rule.function_info.as_ref().map_or(0, |f| u64::from(f.num_params));
                if wanted != u64::from(params.num_args) {
                    refuse(pc, format!("`{}` takes {wanted} arguments, not {}", rule.name, params.num_args));
                }
            }
            Instruction::VirtualDataDocumentLookup { .. } => {
                refuse(pc, "refers to a whole package, or to a rule by a computed name; name the rule".into());
            }
            Instruction::HostAwait { .. } => refuse(pc, "waits for the host, which is not supported".into()),
            _ => {}
        }
    }
    for pc in cycles(&calls) {
        let (file, line) = places.of(pc);
        problems.push(at(&file, line, 0, "this rule comes back to itself: recursion is not supported".into(), None));
    }
    if let Some(pc) = deeper_than(MAX_DEPTH, &calls) {
        let (file, line) = places.of(pc);
        let reason =
            format!("from here rules lead to each other more than {MAX_DEPTH} deep: a request has no stack for it");
        problems.push(at(&file, line, 0, reason, Some("put some of them together")));
    }
}

/// Rules that may lead to each other. Each takes up to 5 KiB of a stack of 2 MiB.
const MAX_DEPTH: usize = 100;

/// The place of a call with more than so many below it; nothing where calls come back to themselves.
fn deeper_than(most: usize, calls: &[Vec<(usize, usize)>]) -> Option<usize> {
    if !cycles(calls).is_empty() {
        return None;
    }
    let mut depths: Vec<Option<usize>> = vec![None; calls.len()];
    for start in 0..calls.len() {
        // As below: an explicit stack.
        let mut stack = vec![(start, 0usize)];
        while let Some((rule, next)) = stack.pop() {
            if let Some((callee, _)) = calls.get(rule).and_then(|calls| calls.get(next)) {
                stack.push((rule, next + 1));
                if depths.get(*callee) == Some(&None) {
                    stack.push((*callee, 0));
                }
                continue;
            }
            let below = calls.get(rule).into_iter().flatten();
            let deepest = below.filter_map(|(callee, pc)| Some((depths.get(*callee).copied()?? + 1, *pc))).max();
            if let Some((_, pc)) = deepest.filter(|(depth, _)| *depth > most) {
                return Some(pc);
            }
            if let Some(depth) = depths.get_mut(rule) {
                *depth = Some(deepest.map_or(0, |(depth, _)| depth));
            }
        }
    }
    None
}

/// Places of calls that close a cycle.
fn cycles(calls: &[Vec<(usize, usize)>]) -> Vec<usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; calls.len()];
    let mut found = Vec::new();
    for start in 0..calls.len() {
        if marks.get(start) != Some(&Mark::New) {
            continue;
        }
        // (rule, next call to follow): an explicit stack, since the input decides the depth.
        let mut stack = vec![(start, 0usize)];
        while let Some((rule, next)) = stack.pop() {
            if let Some(mark) = marks.get_mut(rule) {
                *mark = Mark::Open;
            }
            match calls.get(rule).and_then(|c| c.get(next)) {
                Some((callee, pc)) => {
                    stack.push((rule, next + 1));
                    match marks.get(*callee) {
                        Some(Mark::New) => stack.push((*callee, 0)),
                        Some(Mark::Open) => found.push(*pc),
                        _ => {}
                    }
                }
                None => {
                    if let Some(mark) = marks.get_mut(rule) {
                        *mark = Mark::Done;
                    }
                }
            }
        }
    }
    found
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// regorus writes `--> file:line:column` with the source line below; the last line is the message.
pub(super) fn located(default_file: &str, text: &str) -> Problem {
    let mut file = default_file.to_owned();
    let (mut line, mut column) = (0, 0);
    let mut message = String::new();
    for part in text.lines() {
        if let Some(place) = part.trim().strip_prefix("--> ") {
            let mut pieces = place.rsplitn(3, ':');
            column = pieces.next().and_then(|p| p.parse().ok()).unwrap_or(0);
            line = pieces.next().and_then(|p| p.parse().ok()).unwrap_or(0);
            file = pieces.next().unwrap_or(default_file).to_owned();
        } else if let Some(said) = part.trim().strip_prefix("error: ") {
            message = said.to_owned();
        }
    }
    if message.is_empty() {
        message = one_line(text);
    }
    at(&file, line, column, message, None)
}

/// Where regorus names a rule and no place: where that is written first.
fn of_rule(engine: &mut Engine, message: &str) -> Option<(String, u32, u32)> {
    let named = message.split([' ', '\'']).find(|word| word.starts_with("data."))?;
    syntax::files(engine).iter().find_map(|file| {
        let rule = file.module.policy.iter().find(|rule| syntax::name(file, rule).as_deref() == Some(named))?;
        let (line, column) = syntax::place(rule.span());
        Some((file.path.clone(), line, column))
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(400).collect()
}
