//! What a model must reach to be released: stated minima, or what another model reaches on the same clips. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::agent::run::metrics::Table;

/// What was found of a model on labelled clips, 0 to 1 each.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Metrics {
    /// Clips that were judged.
    pub clips: usize,
    /// Share of clips whose label was found.
    pub accuracy: f64,
    /// Of "not Normal"; none: only one class was there.
    pub roc_auc: Option<f64>,
    /// Recall of Normal.
    pub specificity: Option<f64>,
    /// Mean over classes.
    pub macro_f1: f64,
    /// By class, of those that have clips.
    pub recall: BTreeMap<String, f64>,
    /// By class, of those that have clips.
    pub precision: BTreeMap<String, f64>,
}

impl From<&Table> for Metrics {
    fn from(t: &Table) -> Metrics {
        let rows = || t.per_class.iter().filter(|(_, row)| row.support > 0);
        Metrics {
            clips: t.clips,
            accuracy: t.accuracy,
            roc_auc: t.roc_auc,
            specificity: t.specificity,
            macro_f1: t.macro_average.f1,
            recall: rows().map(|(class, row)| (class.clone(), row.rates.recall)).collect(),
            precision: rows().map(|(class, row)| (class.clone(), row.rates.precision)).collect(),
        }
    }
}

/// What is asked of a model. Absent: nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Minimum {
    /// See [`Metrics`].
    pub accuracy: Option<f64>,
    /// See [`Metrics`].
    pub roc_auc: Option<f64>,
    /// See [`Metrics`].
    pub specificity: Option<f64>,
    /// See [`Metrics`].
    pub macro_f1: Option<f64>,
    /// By class.
    pub recall: BTreeMap<String, f64>,
    /// By class.
    pub precision: BTreeMap<String, f64>,
    /// Median time of a frame and its share of a window, alone on the machine that checks, milliseconds.
    pub frame_ms_at_most: Option<f64>,
}

impl Minimum {
    /// What another model reached, less `margin`.
    pub fn of(other: &Metrics, margin: f64) -> Minimum {
        let less = |found: f64| (found - margin).max(0.0);
        let each = |found: &BTreeMap<String, f64>| found.iter().map(|(c, f)| (c.clone(), less(*f))).collect();
        Minimum {
            accuracy: Some(less(other.accuracy)),
            roc_auc: other.roc_auc.map(less),
            specificity: other.specificity.map(less),
            macro_f1: Some(less(other.macro_f1)),
            recall: each(&other.recall),
            // Of a class that is seldom predicted it jumps; recall and the rest say enough.
            precision: BTreeMap::new(),
            frame_ms_at_most: None,
        }
    }

    /// Whether it asks for what only clips show.
    pub fn needs_clips(&self) -> bool {
        let asks = [self.accuracy, self.roc_auc, self.specificity, self.macro_f1];
        asks.iter().any(Option::is_some) || !self.recall.is_empty() || !self.precision.is_empty()
    }

    /// Every way in which a model falls short, with the numbers.
    pub fn shortfalls(&self, found: Option<&Metrics>, frame_ms: Option<f64>) -> Vec<String> {
        let mut short = Vec::new();
        let mut look = |what: String, found: Option<f64>, least: Option<f64>| match (found, least) {
            (Some(found), Some(least)) if found < least => {
                short.push(format!("{what} is {found:.4}, and at least {least:.4} is asked"));
            }
            (None, Some(least)) => short.push(format!("{what} could not be found, and at least {least:.4} is asked")),
            _ => {}
        };
        look("accuracy".into(), found.map(|m| m.accuracy), self.accuracy);
        look("ROC AUC".into(), found.and_then(|m| m.roc_auc), self.roc_auc);
        look("specificity".into(), found.and_then(|m| m.specificity), self.specificity);
        look("macro F1".into(), found.map(|m| m.macro_f1), self.macro_f1);
        for (class, least) in &self.recall {
            look(format!("recall of {class}"), found.and_then(|m| m.recall.get(class).copied()), Some(*least));
        }
        for (class, least) in &self.precision {
            look(format!("precision of {class}"), found.and_then(|m| m.precision.get(class).copied()), Some(*least));
        }
        if let (Some(took), Some(most)) = (frame_ms, self.frame_ms_at_most)
            && took > most
        {
            short.push(format!("a frame takes {took:.1} ms, and at most {most:.1} ms are allowed"));
        }
        short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Metrics {
        let each = |value| BTreeMap::from([("Fighting".to_owned(), value)]);
        Metrics {
            clips: 10,
            accuracy: 0.9,
            roc_auc: Some(0.95),
            specificity: Some(0.8),
            macro_f1: 0.88,
            recall: each(0.9),
            precision: each(0.7),
        }
    }

    #[test]
    fn as_good_is_good_and_worse_is_told_with_the_numbers() {
        assert_eq!(Minimum::of(&found(), 0.0).shortfalls(Some(&found()), None), [""; 0]);
        let mut worse = found();
        (worse.accuracy, worse.recall) = (0.88, BTreeMap::from([("Fighting".to_owned(), 0.5)]));
        let told = Minimum::of(&found(), 0.01).shortfalls(Some(&worse), None).join("\n");
        assert_eq!(
            told,
            "accuracy is 0.8800, and at least 0.8900 is asked\nrecall of Fighting is 0.5000, and at least 0.8900 is asked"
        );
        assert_eq!(Minimum::of(&found(), 0.5).shortfalls(Some(&worse), None), [""; 0]);
    }

    #[test]
    fn what_was_not_measured_does_not_pass() {
        let minimum = Minimum { roc_auc: Some(0.9), frame_ms_at_most: Some(5.0), ..Minimum::default() };
        assert!(minimum.needs_clips());
        let told = minimum.shortfalls(None, Some(7.25));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("could not be found") && told[1].contains("7.2 ms"), "{told:?}");
    }
}
