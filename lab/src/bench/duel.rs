//! Turns: everybody runs once, then everybody runs again. What disturbs the machine disturbs all of them, and ratios are made
//! within a round.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use super::record::{quantile, spread};
use super::worker::Worker;

/// A program that takes part, or why it does not.
pub struct Seat {
    /// Name of the program.
    pub name: String,
    /// The program.
    pub worker: Result<Worker, String>,
}

/// How seconds are told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unit {
    /// So much work a second, of a run that does `work`: more is better.
    Rate(&'static str, f64),
    /// Seconds times a factor: less is better.
    Time(&'static str, f64),
}

impl Unit {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Rate(name, _) | Unit::Time(name, _) => name,
        }
    }

    /// What `seconds` are in this unit.
    pub fn value(self, seconds: f64) -> f64 {
        match self {
            Unit::Rate(_, work) => work / seconds,
            Unit::Time(_, factor) => seconds * factor,
        }
    }

    /// How often `ours` is as good as `theirs`: above 1 if it is better.
    pub fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Unit::Rate(..) => ours / theirs,
            Unit::Time(..) => theirs / ours,
        }
    }
}

/// One that is measured.
#[derive(Debug, Clone)]
pub struct Contender {
    /// Which seat runs it.
    pub seat: usize,
    /// What it is called beside the seat's name: `int8`, `Q8_0`.
    pub label: String,
    /// What it is asked to do.
    pub case: Value,
    /// How its seconds are told.
    pub unit: Unit,
}

/// Those that take turns.
#[derive(Debug, Clone)]
pub struct Group {
    /// Kind of measurement: `prompt`, `decode`, `gemm`.
    pub bench: &'static str,
    /// What is computed: `512 tokens`.
    pub case: String,
    /// Who takes part.
    pub contenders: Vec<Contender>,
    /// Ours, and those of whom the best is the peer.
    pub pairs: Vec<(usize, Vec<usize>)>,
    /// A run takes minutes: there is one round, and nobody runs unmeasured first.
    pub is_long: bool,
}

/// A line of the result. Values are medians; ratios are above 1 where ours is better.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// As of the group.
    pub bench: &'static str,
    /// As of the group, and how ours keeps its weights.
    pub case: String,
    /// Of both values.
    pub unit: &'static str,
    /// Ours.
    pub ours: Option<f64>,
    /// Who it is compared with.
    pub peer: String,
    /// Theirs.
    pub peer_value: Option<f64>,
    /// Median over the rounds.
    pub ratio: Option<f64>,
    /// Smallest over the rounds.
    pub ratio_min: Option<f64>,
    /// Largest over the rounds.
    pub ratio_max: Option<f64>,
    /// Rounds.
    pub runs: usize,
    /// Why a value is missing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Values of a contender, one a round, or why there are none.
pub type Values = Result<Vec<f64>, String>;

/// Prepares everybody, lets them run once unmeasured, then `runs` rounds. Who fails drops out with the reason.
pub fn measure(group: &Group, seats: &mut [Seat], runs: usize) -> Vec<Values> {
    let runs = if group.is_long { 1 } else { runs };
    let mut values: Vec<Values> = vec![Ok(Vec::new()); group.contenders.len()];
    let mut step = |slot: usize,
                    values: &mut Values,
                    does: &mut dyn FnMut(&mut Worker) -> Result<Option<f64>>| {
        let contender = &group.contenders[slot];
        if let Ok(list) = values {
            let done = match &mut seats[contender.seat].worker {
                Ok(worker) => does(worker).map_err(|error| format!("{error:#}")),
                Err(why) => Err(why.clone()),
            };
            match done {
                Ok(seconds) => list.extend(seconds.map(|it| contender.unit.value(it))),
                Err(why) => *values = Err(why),
            }
        }
    };
    for (slot, values) in values.iter_mut().enumerate() {
        let case = &group.contenders[slot].case;
        step(slot, values, &mut |worker| {
            worker.prepare(slot, case)?;
            match group.is_long {
                true => Ok(None),
                false => worker.run(slot).map(|_| None),
            }
        });
    }
    for _ in 0..runs {
        for (slot, values) in values.iter_mut().enumerate() {
            // Threads that spin for the next piece of work have given up by then.
            std::thread::sleep(Duration::from_millis(15));
            step(slot, values, &mut |worker| worker.run(slot).map(Some));
        }
    }
    values
}

/// The comparisons of a group.
pub fn rows(group: &Group, names: &[String], values: &[Values]) -> Vec<Row> {
    let pairs = group.pairs.iter();
    pairs
        .map(|(ours, theirs)| {
            let unit = group.contenders[*ours].unit;
            let median = |at: usize| quantile(values[at].as_deref().ok()?, 0.5);
            let better = |a: &usize, b: &usize| {
                let ratio = match (median(*a), median(*b)) {
                    (Some(a), Some(b)) => unit.ratio(a, b),
                    (a, _) => {
                        if a.is_some() {
                            2.0
                        } else {
                            0.0
                        }
                    }
                };
                ratio.total_cmp(&1.0)
            };
            let best = theirs
                .iter()
                .copied()
                .max_by(|a, b| better(a, b))
                .unwrap_or(*ours);
            let (own, its) = (&values[*ours], &values[best]);
            let ratios: Vec<f64> = match (own, its) {
                (Ok(own), Ok(its)) => own
                    .iter()
                    .zip(its)
                    .map(|(own, its)| unit.ratio(*own, *its))
                    .collect(),
                _ => Vec::new(),
            };
            let ratio = spread(&ratios);
            let contender = &group.contenders[best];
            let label = &group.contenders[*ours].label;
            let reason = [own, its].into_iter().filter_map(|it| it.as_ref().err());
            Row {
                bench: group.bench,
                case: format!("{} {label}", group.case).trim().to_owned(),
                unit: unit.name(),
                ours: median(*ours),
                peer: format!("{} {}", names[contender.seat], contender.label)
                    .trim()
                    .to_owned(),
                peer_value: median(best),
                ratio: ratio.map(|it| it.0),
                ratio_min: ratio.map(|it| it.1),
                ratio_max: ratio.map(|it| it.2),
                runs: ratios.len(),
                reason: reason.cloned().collect::<Vec<_>>().join("; "),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::process::Command;

    fn group(unit: Unit) -> Group {
        let contender = |seat, label: &str| Contender {
            seat,
            label: label.into(),
            case: json!({}),
            unit,
        };
        Group {
            bench: "prompt",
            case: "512".into(),
            contenders: vec![
                contender(0, "int8"),
                contender(1, "F32"),
                contender(1, "Q8_0"),
            ],
            pairs: vec![(0, vec![1, 2])],
            is_long: false,
        }
    }

    fn names() -> Vec<String> {
        vec!["ours".into(), "theirs".into()]
    }

    #[test]
    fn the_best_of_the_others_is_the_peer_and_ratios_are_of_rounds() {
        let rate = group(Unit::Rate("tokens/s", 512.0));
        let values = [
            Ok(vec![8.0, 4.0, 6.0]),
            Ok(vec![1.0, 1.0, 1.0]),
            Ok(vec![2.0, 4.0, 2.0]),
        ];
        let row = rows(&rate, &names(), &values).remove(0);
        assert_eq!(
            (row.peer.as_str(), row.case.as_str()),
            ("theirs Q8_0", "512 int8")
        );
        assert_eq!((row.ours, row.peer_value), (Some(6.0), Some(2.0)));
        let ratios = (row.ratio, row.ratio_min, row.ratio_max);
        assert_eq!(ratios, (Some(3.0), Some(1.0), Some(4.0)));
        // Less is better for times: the peer is the other one, and the ratio turns.
        let time = group(Unit::Time("ms", 1e3));
        let row = rows(&time, &names(), &values).remove(0);
        assert_eq!(
            (row.peer.as_str(), row.ratio),
            ("theirs F32", Some(1.0 / 6.0))
        );
        assert_eq!(Unit::Rate("", 512.0).value(2.0), 256.0);
        assert_eq!(Unit::Time("", 1e3).value(2.0), 2000.0);
    }

    #[test]
    fn who_is_missing_is_named_with_the_reason() {
        let rate = group(Unit::Rate("tokens/s", 512.0));
        let values = [Ok(vec![8.0]), Err("not built".to_owned()), Ok(vec![2.0])];
        assert_eq!(rows(&rate, &names(), &values)[0].peer_value, Some(2.0));
        let values = [
            Ok(vec![8.0]),
            Err("not built".to_owned()),
            Err("not built".to_owned()),
        ];
        let row = &rows(&rate, &names(), &values)[0];
        assert_eq!(
            (row.ours, row.ratio, row.reason.as_str()),
            (Some(8.0), None, "not built")
        );
    }

    #[test]
    fn turns_are_taken_and_who_fails_drops_out() {
        let worker = |script: &str| Worker::start(Command::new("sh").args(["-c", script]));
        let ours = r#"echo '{"name": "a"}'; while read r; do echo '{"seconds": 2}'; done"#;
        // Answers two requests for each of its two cases, then only errors.
        let theirs = r#"echo '{"name": "b"}'; n=0; while read r; do n=$((n+1))
            if [ $n -le 4 ]; then echo '{"seconds": 4}'; else echo '{"error": "tired"}'; fi; done"#;
        let seat = |name: &str, script: &str| Seat {
            name: name.into(),
            worker: worker(script).map_err(|it| it.to_string()),
        };
        let mut seats = [seat("a", ours), seat("b", theirs)];
        let values = measure(&group(Unit::Rate("x", 8.0)), &mut seats, 3);
        assert_eq!(values[0], Ok(vec![4.0; 3]));
        assert!(values[1].as_ref().is_err_and(|why| why.contains("tired")));
        // What is long is prepared and at once measured, once.
        let mut seats = [seat("a", ours), seat("b", theirs)];
        let long = Group {
            is_long: true,
            ..group(Unit::Rate("x", 8.0))
        };
        let values = measure(&long, &mut seats, 3);
        assert_eq!(values, [Ok(vec![4.0]), Ok(vec![2.0]), Ok(vec![2.0])]);
    }
}
