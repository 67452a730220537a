//! The table by which activity classifiers are judged, computed from labelled clips. Pure.
//!
//! Conventions: a ratio whose denominator is zero is 0 (as scikit-learn's `zero_division=0`); an area under
//! the curve without both positives and negatives does not exist and is `null`. Intervals are percentile
//! bootstrap intervals that resample whole sources, because clips of one source look alike (cluster
//! bootstrap: Field and Welsh, J. R. Statist. Soc. B 69, 2007).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::contract::alert::NORMAL;

const RESAMPLES: usize = 1_000;
/// Fixed, so that the same clips give the same intervals.
const SEED: u64 = 0x5eed;

/// One labelled clip with the model's word on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    /// Index of the true class.
    pub label: usize,
    /// One for each class; sums to 1.
    pub probabilities: Vec<f32>,
    /// What is resampled as one: the source video, or the clip itself.
    pub source: String,
}

impl Labelled {
    fn predicted(&self) -> usize {
        argmax(&self.probabilities)
    }
}

/// Index of the highest value; the first of equals.
pub fn argmax(values: &[f32]) -> usize {
    values.iter().enumerate().fold(0, |best, (i, v)| if *v > values[best] { i } else { best })
}

/// Precision, recall and their harmonic mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rates {
    /// Of what was called so, the part that is.
    pub precision: f64,
    /// Of what is so, the part that was called so.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
}

/// One class's row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ClassRow {
    /// Its rates.
    #[serde(flatten)]
    pub rates: Rates,
    /// Clips with this label.
    pub support: usize,
    /// Area under the ROC curve, this class against the rest, by its own probability.
    pub roc_auc: Option<f64>,
}

/// 95 % intervals, each lower and upper bound; absent where too few resamples define the figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Intervals {
    /// Of the accuracy.
    pub accuracy: Option<[f64; 2]>,
    /// Of the area under the curve.
    pub roc_auc: Option<[f64; 2]>,
    /// Of the specificity.
    pub specificity: Option<[f64; 2]>,
    /// Of the macro-averaged F1.
    pub macro_f1: Option<[f64; 2]>,
    /// What was resampled: `source_video` or `clip`.
    pub by: &'static str,
    /// How many of those there are.
    pub groups: usize,
}

/// Everything `evaluate` reports of a set of clips.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// Clips judged.
    pub clips: usize,
    /// Part of them whose most probable class is their label.
    pub accuracy: f64,
    /// Area under the ROC curve with 1 - P(Normal) as the score of "not Normal".
    pub roc_auc: Option<f64>,
    /// Recall of Normal; `null` without Normal clips.
    pub specificity: Option<f64>,
    /// By class name.
    pub per_class: BTreeMap<String, ClassRow>,
    /// Mean over the classes that have clips.
    #[serde(rename = "macro")]
    pub macro_average: Rates,
    /// Mean over classes, weighted by support.
    pub weighted: Rates,
    /// Clips by true class, then by predicted class.
    pub confusion: BTreeMap<String, BTreeMap<String, usize>>,
    /// 95 % bootstrap intervals.
    pub interval95: Intervals,
}

/// Judges `clips` of a model with these classes. `by_source` names what [`Labelled::source`] holds.
pub fn table(classes: &[String], clips: &[Labelled], by_source: bool) -> Table {
    let refs: Vec<&Labelled> = clips.iter().collect();
    let normal = classes.iter().position(|c| c == NORMAL);
    let counts = Counts::of(classes.len(), &refs);
    let per_class = classes
        .iter()
        .enumerate()
        .map(|(c, name)| {
            let one_against_rest = refs.iter().map(|l| (l.probabilities[c], l.label == c)).collect();
            let row =
                ClassRow { rates: counts.rates(c), support: counts.support(c), roc_auc: roc_auc(one_against_rest) };
            (name.clone(), row)
        })
        .collect();
    let confusion = classes
        .iter()
        .enumerate()
        .map(|(t, name)| {
            let row = classes.iter().enumerate().map(|(p, of)| (of.clone(), counts.matrix[t][p])).collect();
            (name.clone(), row)
        })
        .collect();
    Table {
        clips: clips.len(),
        accuracy: counts.accuracy(),
        roc_auc: normal.and_then(|n| alarm_auc(n, &refs)),
        specificity: normal.and_then(|n| counts.specificity(n)),
        per_class,
        macro_average: counts.average(|support| f64::from(u8::from(support > 0))),
        weighted: counts.average(|support| support as f64),
        confusion,
        interval95: intervals(classes.len(), normal, clips, by_source),
    }
}

/// `matrix[true][predicted]`.
struct Counts {
    matrix: Vec<Vec<usize>>,
}

impl Counts {
    fn of(classes: usize, clips: &[&Labelled]) -> Self {
        let mut matrix = vec![vec![0; classes]; classes];
        for clip in clips {
            matrix[clip.label][clip.predicted()] += 1;
        }
        Counts { matrix }
    }

    fn support(&self, class: usize) -> usize {
        self.matrix[class].iter().sum()
    }

    fn accuracy(&self) -> f64 {
        let right: usize = (0..self.matrix.len()).map(|c| self.matrix[c][c]).sum();
        ratio(right, self.matrix.iter().flatten().sum())
    }

    fn specificity(&self, normal: usize) -> Option<f64> {
        (self.support(normal) > 0).then(|| self.rates(normal).recall)
    }

    fn rates(&self, class: usize) -> Rates {
        let right = self.matrix[class][class];
        let called: usize = self.matrix.iter().map(|row| row[class]).sum();
        let (precision, recall) = (ratio(right, called), ratio(right, self.support(class)));
        let sum = precision + recall;
        Rates { precision, recall, f1: if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 } }
    }

    fn average(&self, weight: impl Fn(usize) -> f64) -> Rates {
        let (mut total, mut mean) = (0.0, Rates { precision: 0.0, recall: 0.0, f1: 0.0 });
        for class in 0..self.matrix.len() {
            let (w, r) = (weight(self.support(class)), self.rates(class));
            total += w;
            mean.precision += w * r.precision;
            mean.recall += w * r.recall;
            mean.f1 += w * r.f1;
        }
        if total > 0.0 {
            mean = Rates { precision: mean.precision / total, recall: mean.recall / total, f1: mean.f1 / total };
        }
        mean
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn alarm_auc(normal: usize, clips: &[&Labelled]) -> Option<f64> {
    roc_auc(clips.iter().map(|l| (1.0 - l.probabilities[normal], l.label != normal)).collect())
}

/// Area under the ROC curve as the Mann-Whitney statistic; ties count half.
fn roc_auc(mut scored: Vec<(f32, bool)>) -> Option<f64> {
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let positives = scored.iter().filter(|s| s.1).count();
    let negatives = scored.len() - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    let (mut rank_sum, mut i) = (0.0, 0);
    while i < scored.len() {
        let tied = scored[i..].iter().take_while(|s| s.0 == scored[i].0).count();
        let mean_rank = i as f64 + (tied as f64 + 1.0) / 2.0;
        rank_sum += mean_rank * scored[i..i + tied].iter().filter(|s| s.1).count() as f64;
        i += tied;
    }
    let p = positives as f64;
    Some((rank_sum - p * (p + 1.0) / 2.0) / (p * negatives as f64))
}

fn intervals(classes: usize, normal: Option<usize>, clips: &[Labelled], by_source: bool) -> Intervals {
    let mut groups: BTreeMap<&str, Vec<&Labelled>> = BTreeMap::new();
    for clip in clips {
        groups.entry(&clip.source).or_default().push(clip);
    }
    let groups: Vec<_> = groups.into_values().collect();
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut drawn: [Vec<f64>; 4] = Default::default();
    for _ in 0..if groups.len() < 2 { 0 } else { RESAMPLES } {
        let sample: Vec<&Labelled> =
            (0..groups.len()).flat_map(|_| groups[random.usize(..groups.len())].iter().copied()).collect();
        let counts = Counts::of(classes, &sample);
        drawn[0].push(counts.accuracy());
        drawn[1].extend(normal.and_then(|n| alarm_auc(n, &sample)));
        drawn[2].extend(normal.and_then(|n| counts.specificity(n)));
        drawn[3].push(counts.average(|support| f64::from(u8::from(support > 0))).f1);
    }
    let [accuracy, roc_auc, specificity, macro_f1] = drawn.map(percentiles);
    Intervals {
        accuracy,
        roc_auc,
        specificity,
        macro_f1,
        by: if by_source { "source_video" } else { "clip" },
        groups: groups.len(),
    }
}

/// 2.5th and 97.5th percentile, if at least half of the resamples define the figure.
fn percentiles(mut values: Vec<f64>) -> Option<[f64; 2]> {
    if values.len() * 2 < RESAMPLES {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let at = |q: f64| values[((values.len() - 1) as f64 * q).round() as usize];
    Some([at(0.025), at(0.975)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<String> {
        ["Fighting", "Normal"].map(String::from).into()
    }

    fn clip(label: usize, p_fighting: f32, source: &str) -> Labelled {
        Labelled { label, probabilities: vec![p_fighting, 1.0 - p_fighting], source: source.into() }
    }

    #[test]
    fn a_table_worked_out_by_hand() {
        // Fighting: .9 right, .4 wrong. Normal: .6 wrong, .2 and .1 right.
        let clips = [clip(0, 0.9, "a"), clip(0, 0.4, "b"), clip(1, 0.6, "c"), clip(1, 0.2, "d"), clip(1, 0.1, "e")];
        let t = table(&classes(), &clips, true);
        assert_eq!(t.accuracy, 0.6);
        assert_eq!(t.specificity, Some(2.0 / 3.0));
        // Of the 6 pairs (fighting, normal), .4 against .6 alone is in the wrong order.
        assert!((t.roc_auc.expect("both kinds") - 5.0 / 6.0).abs() < 1e-12);
        let f = t.per_class["Fighting"];
        assert_eq!((f.rates.precision, f.rates.recall, f.rates.f1, f.support), (0.5, 0.5, 0.5, 2));
        assert_eq!(t.confusion["Normal"]["Fighting"], 1);
        assert!((t.macro_average.recall - (0.5 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        assert!((t.weighted.recall - t.accuracy).abs() < 1e-12, "weighted recall is accuracy");
    }

    #[test]
    fn ties_count_half_and_one_sided_sets_have_no_curve() {
        assert_eq!(roc_auc(vec![(0.5, true), (0.5, false)]), Some(0.5));
        assert_eq!(roc_auc(vec![(0.5, true), (0.6, true)]), None);
        let t = table(&classes(), &[clip(0, 0.9, "a"), clip(0, 0.8, "b")], false);
        assert_eq!((t.roc_auc, t.specificity), (None, None));
        assert_eq!(t.per_class["Normal"].rates, Rates { precision: 0.0, recall: 0.0, f1: 0.0 });
    }

    #[test]
    fn intervals_resample_sources_not_clips() {
        // 40 clips, but all the wrong ones are of one source: by source the interval must be far wider.
        let clips = |own_source: bool| -> Vec<_> {
            (0..40)
                .map(|i| {
                    let wrong = i < 20;
                    let source = if own_source { format!("{i}") } else { format!("{}", i / 20) };
                    clip(i % 2, if wrong == (i % 2 == 0) { 0.2 } else { 0.8 }, &source)
                })
                .collect()
        };
        let by_clip = table(&classes(), &clips(true), false).interval95;
        let by_source = table(&classes(), &clips(false), true).interval95;
        let width = |i: &Intervals| i.accuracy.map(|[lo, hi]| hi - lo).expect("enough resamples");
        assert!(width(&by_source) > 2.0 * width(&by_clip));
        assert_eq!((by_source.groups, by_source.by), (2, "source_video"));
        assert_eq!(table(&classes(), &clips(false), true).interval95, by_source, "seeded");
    }

    proptest::proptest! {
        #[test]
        fn area_under_the_curve_is_the_share_of_ordered_pairs(
            scored in proptest::collection::vec((0u8..10, proptest::bool::ANY), 2..40)
        ) {
            let scored: Vec<(f32, bool)> = scored.into_iter().map(|(s, p)| (f32::from(s), p)).collect();
            let (mut won, mut pairs) = (0.0, 0.0);
            for p in scored.iter().filter(|s| s.1) {
                for n in scored.iter().filter(|s| !s.1) {
                    pairs += 1.0;
                    won += if p.0 > n.0 { 1.0 } else if p.0 == n.0 { 0.5 } else { 0.0 };
                }
            }
            match roc_auc(scored) {
                Some(area) => proptest::prop_assert!((area - won / pairs).abs() < 1e-9),
                None => proptest::prop_assert_eq!(pairs, 0.0),
            }
        }
    }
}
