//! One evaluation within its limits, and the reading of what it returned.

use super::{ENTRYPOINT, EngineKind, Policy, PolicyLimits, Verdict};
use crate::reason::Reason;
use regorus::rvm::RegoVM;
use regorus::rvm::program::Program;
use regorus::rvm::vm::VmError;
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use std::cell::RefCell;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

/// Instructions between two looks at the clock.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::MIN.saturating_add(63);
/// Builtins whose result can be larger than each of their arguments: a few dozen instructions of them could double a
/// text until the memory ends, so that the clock is looked at after each instruction.
const GROWING: &[&str] = &[
    "__builtin_sets.union",
    "array.concat",
    "base64.encode",
    "base64url.encode",
    "base64url.encode_no_pad",
    "concat",
    "glob.quote_meta",
    "hex.encode",
    "object.union",
    "object.union_n",
    "replace",
    "sprintf",
    "union",
];
/// Largest decision that is read, in values and bytes of text together.
pub(super) const MAX_RESULT: usize = 16 * 1024;

/// What evaluates, within limits.
pub(super) enum Machine {
    Rvm(Box<RegoVM>),
    Interpreter(Box<Engine>),
}

/// Why there is no value.
pub(super) enum Stopped {
    Time,
    Instructions,
    Error(String),
}

impl Machine {
    /// One for a program, with the same rules in `engine`.
    pub(super) fn new(
        kind: EngineKind,
        (program, engine): (&Arc<Program>, &Engine),
        data: &Value,
        limits: PolicyLimits,
    ) -> Self {
        let grows = program.builtin_info_table.iter().any(|b| GROWING.contains(&b.name.as_str()));
        let check_interval = if grows { NonZeroU32::MIN } else { CHECK_INTERVAL };
        let timer = ExecutionTimerConfig { limit: limits.time, check_interval };
        match kind {
            EngineKind::Rvm => {
                let mut vm = RegoVM::new();
                vm.load_program(program.clone());
                // Checked when the policy was compiled; a machine without data denies.
                let _ = vm.set_data(data.clone());
                vm.set_max_instructions(limits.instructions);
                vm.set_execution_timer_config(Some(timer));
                Machine::Rvm(Box::new(vm))
            }
            EngineKind::Interpreter => {
                let mut engine = engine.clone();
                engine.set_execution_timer_config(timer);
                Machine::Interpreter(Box::new(engine))
            }
        }
    }

    /// What a rule comes to on an input.
    pub(super) fn ask(&mut self, rule: &str, input: Value) -> Result<Value, Stopped> {
        match self {
            Machine::Rvm(vm) => {
                vm.set_input(input);
                let outcome = vm.execute_entry_point_by_name(rule);
                // The input holds what one partner sent; it does not stay in the machine.
                vm.set_input(Value::Undefined);
                outcome.map_err(|e| match e {
                    VmError::TimeLimitExceeded { .. } => Stopped::Time,
                    VmError::InstructionLimitExceeded { .. } => Stopped::Instructions,
                    e => Stopped::Error(e.to_string()),
                })
            }
            Machine::Interpreter(engine) => {
                engine.set_input(input);
                let outcome = engine.eval_rule(rule.to_owned());
                engine.set_input(Value::Undefined);
                outcome.map_err(|e| match e.to_string() {
                    text if is_time(&text) => Stopped::Time,
                    text => Stopped::Error(text),
                })
            }
        }
    }
}

thread_local! {
    /// The machine of the policy that this thread evaluated last. Policies change rarely; one place is enough.
    static MACHINE: RefCell<Option<(Arc<()>, Machine)>> = const { RefCell::new(None) };
}

impl Policy {
    /// Decides one input of contract version 1. Never fails: what goes wrong is a denial.
    pub fn evaluate(&self, input: Value) -> Verdict {
        MACHINE.with(|slot| {
            // A machine in use on this thread can only mean a re-entry, which there is none; a fresh one is safe.
            let Ok(mut slot) = slot.try_borrow_mut() else { return self.run(&mut self.machine(), input) };
            match slot.as_mut() {
                Some((identity, machine)) if Arc::ptr_eq(identity, &self.identity) => self.run(machine, input),
                _ => {
                    let (_, machine) = slot.insert((self.identity.clone(), self.machine()));
                    self.run(machine, input)
                }
            }
        })
    }

    fn machine(&self) -> Machine {
        Machine::new(self.kind, (&self.program, &self.engine), &self.data, self.limits)
    }

    /// Runs the policy. A run over the time limit is tried once more: on a busy machine the thread may have been without
    /// a processor for all that time, and no partner is denied for that. A policy that is slow stays slow.
    fn run(&self, machine: &mut Machine, input: Value) -> Verdict {
        match self.run_once(machine, input.clone()) {
            Verdict::Deny { reasons, .. } if reasons == [Reason::PolicyTimeout] => self.run_once(machine, input),
            verdict => verdict,
        }
    }

    fn run_once(&self, machine: &mut Machine, input: Value) -> Verdict {
        let started = Instant::now();
        let verdict = self.execute(machine, input);
        // The machine looks at the clock between instructions, and so not after a long last one.
        if started.elapsed() > self.limits.time { deny(Reason::PolicyTimeout, None) } else { verdict }
    }

    fn execute(&self, machine: &mut Machine, input: Value) -> Verdict {
        match machine.ask(ENTRYPOINT, input) {
            Ok(value) => self.read(&value),
            Err(Stopped::Time) => deny(Reason::PolicyTimeout, None),
            Err(Stopped::Instructions) => deny(Reason::PolicyInstructionLimit, None),
            Err(Stopped::Error(e)) => deny(Reason::PolicyError, Some(e)),
        }
    }

    /// `{"allow": bool, "reasons": [code…], "grant": id, "observed": [code…]}`; anything else denies.
    pub(super) fn read(&self, value: &Value) -> Verdict {
        let error =
            |what: &str| deny(Reason::PolicyError, Some(format!("the decision is not of the agreed form: {what}")));
        if is_larger_than(value, MAX_RESULT) {
            return deny(Reason::PolicyResultTooLarge, None);
        }
        let object = match value {
            Value::Undefined => return deny(Reason::PolicyUndefined, None),
            Value::Object(object) => object,
            _ => return error("not an object"),
        };
        let (mut allow, mut reasons, mut grant, mut observed) = (None, None, None, None);
        for (key, value) in object.iter() {
            match key {
                Value::String(k) if &**k == "allow" => allow = Some(value),
                Value::String(k) if &**k == "reasons" => reasons = Some(value),
                Value::String(k) if &**k == "grant" => grant = Some(value),
                Value::String(k) if &**k == "observed" => observed = Some(value),
                _ => {}
            }
        }
        match allow {
            Some(Value::Bool(true)) => {
                // An allow that also gives reasons against it, in whatever form, contradicts itself.
                let none = match reasons {
                    None => true,
                    Some(Value::Array(list)) => list.is_empty(),
                    Some(Value::Set(set)) => set.is_empty(),
                    Some(_) => false,
                };
                if !none {
                    return error("`allow` is true and there are reasons against it");
                }
                match grant {
                    Some(Value::String(id)) => match observed.map(|observed| self.read_reasons(Some(observed))) {
                        None => Verdict::Allow { grant: id.clone(), observed: Vec::new() },
                        Some(Verdict::Deny { reasons, .. }) if reasons.iter().all(is_custom) => {
                            Verdict::Allow { grant: id.clone(), observed: reasons }
                        }
                        Some(_) => error("`observed` is no list of declared reasons of custom rules"),
                    },
                    _ => deny(Reason::GrantNotValid, Some("allowed without naming a grant".into())),
                }
            }
            Some(Value::Bool(false)) => self.read_reasons(reasons),
            _ => error("`allow` is not a boolean"),
        }
    }

    fn read_reasons(&self, reasons: Option<&Value>) -> Verdict {
        let names: Vec<&Value> = match reasons {
            Some(Value::Array(list)) => list.iter().collect(),
            Some(Value::Set(set)) => set.iter().collect(),
            _ => Vec::new(),
        };
        let (mut found, mut undeclared) = (Vec::new(), None);
        for name in names {
            match name {
                Value::String(text) => match self.reason(text) {
                    Some(reason) => found.push(reason),
                    None => undeclared = Some(text.chars().take(64).collect::<String>()),
                },
                other => undeclared = Some(other.to_string().chars().take(64).collect()),
            }
        }
        if undeclared.is_some() {
            found.push(Reason::PolicyReasonUndeclared);
        }
        if found.is_empty() {
            found.push(Reason::PolicyDenied);
        }
        found.sort();
        found.dedup();
        Verdict::Deny {
            reasons: found,
            detail: undeclared.map(|name| format!("undeclared reason `{}`", name.escape_debug())),
        }
    }
}

/// Whether the interpreter has ended because of its time.
pub(super) fn is_time(error: &str) -> bool {
    error.contains("time limit")
}

fn is_custom(reason: &Reason) -> bool {
    matches!(reason, Reason::Custom(_))
}

/// Whether there are more than `most` values and bytes of text in it; looks at no more than that.
pub(super) fn is_larger_than(value: &Value, most: usize) -> bool {
    let (mut size, mut waiting) = (0_usize, vec![value]);
    while let Some(value) = waiting.pop() {
        size += 1;
        match value {
            Value::String(text) => size += text.len(),
            Value::Array(list) if list.len() <= most => waiting.extend(list.iter()),
            Value::Set(set) if set.len() <= most => waiting.extend(set.iter()),
            Value::Object(object) if object.len() <= most => {
                waiting.extend(object.iter().flat_map(|(key, value)| [key, value]));
            }
            Value::Array(_) | Value::Set(_) | Value::Object(_) => return true,
            _ => {}
        }
        if size > most {
            return true;
        }
    }
    false
}

fn deny(reason: Reason, detail: Option<String>) -> Verdict {
    Verdict::Deny { reasons: vec![reason], detail }
}
