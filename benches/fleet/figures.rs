//! The measured figures: percentiles, one table for each case, JSON.

use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub case: &'static str,
    pub replicas: usize,
    pub topology: String,
    pub metric: String,
    pub value: f64,
    pub unit: &'static str,
}

/// The figures of one fleet on one topology.
#[derive(Debug)]
pub struct Figures {
    pub replicas: usize,
    pub topology: String,
    pub all: Vec<Figure>,
}

impl Figures {
    pub fn add(&mut self, case: &'static str, metric: &str, value: f64, unit: &'static str) {
        self.all.push(Figure {
            case,
            replicas: self.replicas,
            topology: self.topology.clone(),
            metric: metric.to_owned(),
            value,
            unit,
        });
    }

    /// Adds these percentiles of the values; nothing if there are no values. 100 is the maximum.
    pub fn spread(
        &mut self,
        case: &'static str,
        metric: &str,
        mut values: Vec<f64>,
        percents: &[usize],
        unit: &'static str,
    ) {
        values.sort_by(f64::total_cmp);
        for percent in percents {
            // The nearest-rank method.
            let rank = (values.len() * percent).div_ceil(100).max(1);
            let Some(value) = values.get(rank - 1) else {
                return;
            };
            let which = match percent {
                100 => "max".to_owned(),
                percent => format!("p{percent}"),
            };
            self.add(case, &format!("{metric}_{which}"), *value, unit);
        }
    }

    /// Prints metrics as rows and cases as columns, both in the order of their addition.
    pub fn print(&self) {
        let cases = distinct(self.all.iter().map(|figure| figure.case));
        print!("{:<42}", "");
        cases.iter().for_each(|case| print!("{case:>13}"));
        println!();
        for metric in distinct(self.all.iter().map(|figure| figure.metric.as_str())) {
            let mut unit = "";
            print!("{metric:<42}");
            for case in &cases {
                let mut figures = self.all.iter();
                let figure = figures.find(|f| f.metric == metric && f.case == *case);
                unit = figure.map_or(unit, |figure| figure.unit);
                print!("{:>13}", figure.map(short).unwrap_or_default());
            }
            println!("  {unit}");
        }
    }
}

fn short(figure: &Figure) -> String {
    match figure.value {
        value if value.fract() == 0.0 || value.abs() >= 1000.0 => format!("{value:.0}"),
        value if value.abs() >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}

fn distinct<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for one in all {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}
