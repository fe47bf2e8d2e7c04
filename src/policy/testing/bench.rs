//! Running tests, and their twins beside them.
//!
//! In: the tests with their twins. Out: what came of each, and the lines that were reached. The interpreter runs the test as it is
//! written; twins run on both engines, on the documents that their own rules yield.

use super::super::probe::{self, Failure, shown};
use super::super::syntax::{self, File};
use super::super::{COMPILING, ENTRYPOINT, program};
use super::turn::{self, CASE, Replaced, Target, Twin};
use super::{Engines, Options, Outcome, Test, cover};
use regorus::languages::rego::compiler::Compiler;
use regorus::rvm::RegoVM;
use regorus::rvm::program::Program;
use regorus::unstable::Rule;
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Rc, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Instructions of one run of a twin; time ends it much sooner.
const INSTRUCTIONS: usize = 100_000_000;
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::MIN.saturating_add(63);

fn timer(limit: Duration) -> ExecutionTimerConfig {
    ExecutionTimerConfig { limit, check_interval: CHECK_INTERVAL }
}

/// The policy with some twins in it, and without the rules that these put data in the place of.
pub(super) struct Variant {
    engine: Engine,
    program: Arc<Program>,
    /// Whether it has the rule that decides.
    decides: bool,
}

/// The twins of a test, or why it has none.
pub(super) type Plan = Result<Vec<Twin>, String>;

/// Compiles the twins of all plans, those together that replace the same rules. A plan with a twin that does not compile says why
/// instead.
pub(super) fn variants(
    files: &[File],
    plans: &mut [Plan],
    data: &Value,
    timeout: Duration,
) -> BTreeMap<BTreeSet<Replaced>, Variant> {
    let mut wanted: BTreeSet<BTreeSet<Replaced>> = BTreeSet::new();
    for twin in plans.iter().flatten().flatten() {
        wanted.insert(twin.replaced.clone());
    }
    let mut variants = BTreeMap::new();
    for replaced in wanted {
        let compile = |plans: &[&Plan]| {
            let twins = plans.iter().filter_map(|plan| plan.as_ref().ok()).flatten();
            let twins: Vec<&Twin> = twins.filter(|twin| twin.replaced == replaced).collect();
            variant(files, &twins, &replaced, data, timeout)
        };
        let made = match compile(&plans.iter().collect::<Vec<_>>()) {
            Ok(made) => Some(made),
            Err(_) => {
                for plan in plans.iter_mut().filter(|plan| is_in(plan, &replaced)) {
                    if let Err(why) = compile(&[plan]) {
                        *plan = Err(format!("the serving engine does not take it: {why}"));
                    }
                }
                compile(&plans.iter().collect::<Vec<_>>()).ok()
            }
        };
        match made {
            Some(made) => drop(variants.insert(replaced, made)),
            None => {
                for plan in plans.iter_mut().filter(|plan| is_in(plan, &replaced)) {
                    *plan = Err("the serving engine does not take it together with others".into());
                }
            }
        }
    }
    variants
}

fn is_in(plan: &Plan, replaced: &BTreeSet<Replaced>) -> bool {
    plan.as_ref().is_ok_and(|twins| twins.iter().any(|twin| twin.replaced == *replaced))
}

fn variant(
    files: &[File],
    twins: &[&Twin],
    replaced: &BTreeSet<Replaced>,
    data: &Value,
    timeout: Duration,
) -> Result<Variant, String> {
    let mut engine = program::engine();
    engine.set_execution_timer_config(timer(timeout));
    let reason = |e: String| program::located("policies", &e).reason;
    let texts = files.iter().enumerate().map(|(at, file)| {
        let mut text = syntax::without_rules(file, |rule| replaced.iter().any(|replaced| replaced.rule == rule));
        text.push_str(&turn::stand_ins(files, file, replaced));
        twins.iter().filter(|twin| twin.file == at).for_each(|twin| text.push_str(&twin.text));
        (file.path.clone(), text)
    });
    let texts: Vec<(String, String)> = texts.collect();
    let spelled_out = {
        let mut engine = Engine::new();
        for (path, text) in &texts {
            engine.add_policy(path.clone(), text.clone()).map_err(|e| reason(e.to_string()))?;
        }
        syntax::spelled_out(&syntax::files(&mut engine))
    };
    for (path, text) in spelled_out.unwrap_or(texts) {
        engine.add_policy(path, text).map_err(|e| reason(e.to_string()))?;
    }
    engine.add_data(data.clone()).map_err(|e| reason(e.to_string()))?;
    let decides = !replaced.iter().any(|replaced| replaced.rule == ENTRYPOINT);
    let mut entries: Vec<&str> = twins.iter().map(|twin| twin.holds.as_str()).collect();
    entries.extend(decides.then_some(ENTRYPOINT));
    let first: Rc<str> = entries.first().copied().unwrap_or(ENTRYPOINT).into();
    let compiled = engine.compile_with_entrypoint(&first).map_err(|e| reason(e.to_string()))?;
    let program = Compiler::compile_from_policy(&compiled, &entries).map_err(|e| reason(e.error.to_string()))?;
    program::survives(&program, &compiled)?;
    Ok(Variant { engine, program, decides })
}

/// What an engine made of a rule.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Value(Value),
    Undefined,
    Error(String),
}

impl Said {
    fn of(result: Result<Value, String>) -> Said {
        match result {
            Ok(Value::Undefined) => Said::Undefined,
            Ok(value) => Said::Value(value),
            Err(e) => Said::Error(e),
        }
    }

    fn holds(&self) -> bool {
        *self == Said::Value(Value::Bool(true)) || matches!(self, Said::Value(Value::Set(set)) if !set.is_empty())
    }

    fn shown(&self) -> String {
        match self {
            Said::Value(value) => shown(value),
            Said::Undefined => "nothing".into(),
            Said::Error(e) => format!("the error `{}`", program::located("", e).reason),
        }
    }
}

/// What tests are run with.
pub(super) struct Bench<'a> {
    pub engine: Engine,
    pub variants: BTreeMap<BTreeSet<Replaced>, Variant>,
    pub data: Value,
    pub files: &'a [File],
    pub rego: &'a [(&'a str, &'a str)],
    pub plans: &'a [Plan],
    pub options: &'a Options<'a>,
}

/// What one thread works with.
struct Machines<'b> {
    engine: Engine,
    variants: BTreeMap<&'b BTreeSet<Replaced>, (Engine, RegoVM, bool)>,
}

impl Bench<'_> {
    /// Runs all, and returns the lines that were reached, by file.
    pub fn run_all(&self, tests: &mut [Test]) -> BTreeMap<String, BTreeSet<u32>> {
        let (next, mut covered) = (AtomicUsize::new(0), BTreeMap::new());
        let waiting: Vec<std::sync::Mutex<&mut Test>> = tests.iter_mut().map(std::sync::Mutex::new).collect();
        let work = || {
            let mut machines = self.machines();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let (Some(test), Some(plan)) = (waiting.get(at), self.plans.get(at)) else { break };
                let Ok(mut test) = test.lock() else { break };
                if test.outcome != Outcome::Skipped {
                    self.run_one(&mut machines, &mut test, plan);
                }
            }
            cover::hits(&machines.engine)
        };
        let threads = self.options.threads.get().min(waiting.len().max(1));
        std::thread::scope(|scope| {
            let started: Vec<_> = (0..threads)
                .filter_map(|_| {
                    std::thread::Builder::new()
                        .name("policy-test".into())
                        .stack_size(COMPILING)
                        .spawn_scoped(scope, work)
                        .ok()
                })
                .collect();
            for hits in started.into_iter().filter_map(|thread| thread.join().ok()) {
                for (file, lines) in hits {
                    covered.entry(file).or_insert_with(BTreeSet::new).extend(lines);
                }
            }
        });
        covered
    }

    fn machines(&self) -> Machines<'_> {
        let timer = timer(self.options.timeout);
        let mut engine = self.engine.clone();
        engine.set_execution_timer_config(timer);
        engine.set_gather_prints(true);
        engine.clear_coverage_data();
        engine.set_enable_coverage(self.options.coverage);
        let variants = self.variants.iter().map(|(replaced, variant)| {
            let mut vm = RegoVM::new();
            vm.load_program(variant.program.clone());
            vm.set_max_instructions(INSTRUCTIONS);
            vm.set_execution_timer_config(Some(timer));
            let mut engine = variant.engine.clone();
            engine.set_gather_prints(true);
            (replaced, (engine, vm, variant.decides))
        });
        Machines { engine, variants: variants.collect() }
    }

    fn run_one(&self, machines: &mut Machines<'_>, test: &mut Test, plan: &Plan) {
        let started = Instant::now();
        let verdict = Said::of(machines.engine.eval_rule(test.full_name()).map_err(|e| e.to_string()));
        test.took = started.elapsed();
        test.prints = machines.engine.take_prints().unwrap_or_default();
        test.outcome = match &verdict {
            Said::Value(Value::Bool(true)) => Outcome::Passed,
            Said::Error(e) => {
                let problem = program::located(&test.file, e);
                let reason = problem.reason.trim_end_matches(':');
                Outcome::Error(match problem.line {
                    0 => reason.to_owned(),
                    line => format!("{}:{line}: {reason}", problem.file),
                })
            }
            _ => Outcome::Failed,
        };
        if test.outcome == Outcome::Failed {
            test.failure = self.failure(test);
        }
        let Ok(twins) = plan else { return };
        let mut all = true;
        for twin in twins {
            match self.run_twin(machines, twin, test) {
                Ok(holds) => all &= holds,
                Err(why) => {
                    test.engines = Engines::Interpreter(why);
                    return;
                }
            }
        }
        if all != (test.outcome == Outcome::Passed) && test.differences.is_empty() {
            let (by, how) = if all { ("passes", "does not") } else { ("does not pass", "does") };
            test.differences.push(format!("with documents the test {by}, and with `with` it {how}"));
        }
    }

    /// The condition of a test that does not hold. `None` where that cannot be told.
    fn failure(&self, test: &Test) -> Option<Failure> {
        let file = self.files.iter().find(|file| file.path == test.file)?;
        let full = test.full_name();
        let rule = file.module.policy.iter().find(|rule| syntax::name(file, rule).as_ref() == Some(&full))?;
        let Rule::Spec { bodies, .. } = &**rule else { return None };
        let [body] = bodies.as_slice() else { return None };
        let probes = probe::probes("t", body);
        let engine = |more: &str| {
            let mut engine = program::engine();
            engine.set_gather_prints(true);
            engine.set_execution_timer_config(timer(self.options.timeout));
            for (path, text) in self.rego {
                let text = if *path == file.path { format!("{text}{more}") } else { (*text).to_owned() };
                engine.add_policy((*path).to_owned(), text).ok()?;
            }
            engine.add_data(self.data.clone()).ok()?;
            engine.eval_rule(format!("{}.pgx_t_0", file.package)).ok()?;
            Some(engine)
        };
        // Where a part does not stand by itself, it is still told which condition it was.
        let both = format!("{}{}", probes.holds, probes.values);
        let mut engine = engine(&both).or_else(|| engine(&probes.holds))?;
        let mut ask = |rule| Ok(engine.eval_rule(rule).unwrap_or(Value::Undefined));
        probe::failure(&mut ask, &file.package, "t", body).ok().flatten().map(|(_, failure)| failure)
    }

    /// Whether a twin holds on both engines; what they do not agree on is added.
    fn run_twin(&self, machines: &mut Machines<'_>, twin: &Twin, test: &mut Test) -> Result<bool, String> {
        let Some((engine, vm, decides)) = machines.variants.get_mut(&twin.replaced) else {
            return Err("the serving engine does not take it".into());
        };
        engine.set_input(Value::Undefined);
        let mut eval = |rule: &String| match Said::of(engine.eval_rule(rule.clone()).map_err(|e| e.to_string())) {
            Said::Value(Value::Set(set)) => Ok(set.iter_sorted().cloned().collect()),
            Said::Error(e) => Err(format!("its documents end with an error: {}", program::located("", &e).reason)),
            _ => Ok(Vec::new()),
        };
        let documents: Vec<Value> = eval(&twin.documents)?;
        let mut found: BTreeMap<Value, Vec<Value>> = BTreeMap::new();
        for document in &documents {
            let Value::Array(values) = document else { continue };
            let mut values = values.iter().cloned();
            let case = values.next().unwrap_or(Value::Null);
            if found.insert(case, values.collect()).is_some() {
                return Err("it tries several documents".into());
            }
        }
        // A test without cases is one case; a case without documents does not hold, for what comes before its `with` does not.
        let cases = twin.cases.as_ref().map_or_else(|| Ok(Vec::new()), eval)?;
        let cases: BTreeMap<&Value, String> = cases.iter().filter_map(case_and_name).collect();
        let mut bad: Vec<&Value> = cases.keys().copied().filter(|case| !found.contains_key(case)).collect();
        let whole = Value::Null;
        if twin.cases.is_none() && found.is_empty() {
            bad.push(&whole);
        }
        for (case, values) in &found {
            let of = cases.get(case).map(|name| format!(" for the case {name}")).unwrap_or_default();
            if !self.run_case((engine, vm, *decides), (twin, case, &of), values, &mut test.differences)? {
                bad.push(case);
            }
        }
        if let (Some(failure), true) = (&mut test.failure, twin.cases.is_some() && !bad.is_empty()) {
            failure.seen.push(("the case".into(), bad.iter().filter_map(|case| cases.get(case).cloned()).collect()));
        }
        let holds = bad.is_empty();
        // What the data of one twin replaced is there again for the next.
        engine.clear_data();
        let _ = engine.add_data(self.data.clone());
        Ok(holds)
    }

    /// The same for one set of documents.
    fn run_case(
        &self,
        (engine, vm, decides): (&mut Engine, &mut RegoVM, bool),
        (twin, case, of): (&Twin, &Value, &str),
        values: &[Value],
        differences: &mut Vec<String>,
    ) -> Result<bool, String> {
        let (mut input, mut data) = (Value::Undefined, self.data.clone());
        put(&mut data, &CASE.map(str::to_owned), case.clone());
        for (target, value) in twin.targets.iter().zip(values) {
            match target {
                Target::Input(steps) => put(&mut input, steps, value.clone()),
                Target::Data(steps) => put(&mut data, steps, value.clone()),
            }
        }
        engine.clear_data();
        engine.add_data(data.clone()).map_err(|e| format!("its data cannot be used: {e}"))?;
        vm.set_data(data).map_err(|e| format!("its data cannot be used: {e}"))?;
        let mut on_both = |rule: &str, what: &str| {
            engine.set_input(input.clone());
            let one = Said::of(engine.eval_rule(rule.to_owned()).map_err(|e| e.to_string()));
            vm.set_input(input.clone());
            let other = Said::of(vm.execute_entry_point_by_name(rule).map_err(|e| e.to_string()));
            if one != other {
                let (other, one) = (other.shown(), one.shown());
                differences.push(format!("{what}{of}: {other} on the serving engine, and {one} on the interpreter"));
            }
            one.holds()
        };
        if decides {
            on_both(ENTRYPOINT, &format!("`{ENTRYPOINT}`"));
        }
        Ok(on_both(&twin.holds, "the conditions of the test"))
    }
}

/// A case, and what people know it by: its name, or its value where it has only a place in a list.
fn case_and_name(case: &Value) -> Option<(&Value, String)> {
    let Value::Array(both) = case else { return None };
    let (case, value) = (both.first()?, both.get(1)?);
    let name = if matches!(case, Value::Number(_)) { shown(value) } else { shown(case) };
    Some((case, name))
}

/// Puts a value at a place of a document; what is no object on the way there becomes one.
fn put(document: &mut Value, steps: &[String], value: Value) {
    let mut at = document;
    for step in steps {
        if !matches!(at, Value::Object(_)) {
            *at = Value::new_object();
        }
        let Ok(object) = at.as_object_mut() else { return };
        let key = Value::String(step.as_str().into());
        if !object.contains_key(&key) {
            object.insert(key.clone(), Value::Undefined);
        }
        let Some(next) = object.get_mut(&key) else { return };
        at = next;
    }
    *at = value;
}
