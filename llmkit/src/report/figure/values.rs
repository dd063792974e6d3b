//! Numbers that enter a figure, from whatever holds them.

use candle_core::{DType, Tensor};
use polars::prelude::{Column, DataType, Series};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result};

/// A number of a figure, kept to 12 significant digits.
///
/// Twelve digits are far below the width of a line, and survive JSON exactly: the same figure read back from its
/// file draws the same bytes. NaN is `null` in JSON, infinities are `"inf"` and `"-inf"`.
#[derive(Debug, Clone, Copy)]
pub struct Num(f64);

impl Num {
    /// Rounds to 12 significant digits; a float of 32 bits keeps its shortest decimal form.
    pub fn new(value: f64) -> Num {
        if !value.is_finite() || value == 0.0 {
            return Num(if value == 0.0 { 0.0 } else { value });
        }
        let rounded = format!("{value:.11e}").parse().unwrap_or(value);
        // The largest doubles round up to infinity.
        Num(if f64::is_finite(rounded) {
            rounded
        } else {
            value
        })
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for Num {
    fn eq(&self, other: &Num) -> bool {
        self.0 == other.0 || (self.0.is_nan() && other.0.is_nan())
    }
}

impl From<f64> for Num {
    fn from(value: f64) -> Num {
        Num::new(value)
    }
}

impl Serialize for Num {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            v if v.is_nan() => serializer.serialize_none(),
            f64::INFINITY => serializer.serialize_str("inf"),
            f64::NEG_INFINITY => serializer.serialize_str("-inf"),
            v if v.fract() == 0.0 && v.abs() < 1e15 => serializer.serialize_i64(v as i64),
            v => serializer.serialize_f64(v),
        }
    }
}

impl<'de> Deserialize<'de> for Num {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Num, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(f64),
            Word(String),
            Nothing(()),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(value) => Ok(Num::new(value)),
            Form::Nothing(()) => Ok(Num(f64::NAN)),
            Form::Word(word) => match word.as_str() {
                "inf" => Ok(Num(f64::INFINITY)),
                "-inf" => Ok(Num(f64::NEG_INFINITY)),
                other => Err(serde::de::Error::custom(format!(
                    "expected a number, null, \"inf\" or \"-inf\", got {other:?}"
                ))),
            },
        }
    }
}

/// Anything that holds a list of numbers: slices, vectors and arrays of numbers, table columns, tensors.
///
/// Missing entries of a column become NaN.
pub trait Values {
    /// The numbers, in order; a tensor of any shape is read row-major.
    ///
    /// # Errors
    /// [`Error::Argument`] if a column does not hold numbers; tensor errors.
    fn values(&self) -> Result<Vec<f64>>;
}

macro_rules! number_slices {
    ($($number:ty),*) => {$(
        impl Values for [$number] {
            fn values(&self) -> Result<Vec<f64>> {
                Ok(self.iter().map(|&value| value as f64).collect())
            }
        }
    )*};
}
number_slices!(f64, u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);

impl Values for [f32] {
    fn values(&self) -> Result<Vec<f64>> {
        // Through the shortest decimal form: 0.1f32 is meant as 0.1, not as 0.10000000149.
        let decimal = |value: f32| value.to_string().parse().unwrap_or(f64::from(value));
        Ok(self.iter().map(|&value| decimal(value)).collect())
    }
}

impl<T> Values for Vec<T>
where
    [T]: Values,
{
    fn values(&self) -> Result<Vec<f64>> {
        self.as_slice().values()
    }
}

impl<T, const N: usize> Values for [T; N]
where
    [T]: Values,
{
    fn values(&self) -> Result<Vec<f64>> {
        self.as_slice().values()
    }
}

impl<V: Values + ?Sized> Values for &V {
    fn values(&self) -> Result<Vec<f64>> {
        (**self).values()
    }
}

impl Values for Series {
    fn values(&self) -> Result<Vec<f64>> {
        let is_number = self.dtype().is_primitive_numeric() || *self.dtype() == DataType::Boolean;
        if !is_number {
            return Err(Error::argument(
                format!("column {:?}", self.name().as_str()),
                "numbers",
                self.dtype(),
            ));
        }
        let floats = self.cast(&DataType::Float64)?;
        Ok(floats
            .f64()?
            .iter()
            .map(|value| value.unwrap_or(f64::NAN))
            .collect())
    }
}

impl Values for Column {
    fn values(&self) -> Result<Vec<f64>> {
        self.as_materialized_series().values()
    }
}

impl Values for Tensor {
    fn values(&self) -> Result<Vec<f64>> {
        if self.dtype() == DType::F32 {
            return self.flatten_all()?.to_vec1::<f32>()?.values();
        }
        Ok(self.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::prelude::NamedFrom;

    #[test]
    fn numbers_survive_json_exactly() {
        let awkward = [
            0.1 + 0.2,
            1e-300,
            f64::MAX,
            -1.0 / 3.0,
            5e-324,
            f64::NAN,
            f64::INFINITY,
        ];
        for value in awkward.map(Num::new) {
            let json = serde_json::to_string(&value).unwrap();
            let back: Num = serde_json::from_str(&json).unwrap();
            assert_eq!(back, value, "{json}");
        }
        assert!(serde_json::from_str::<Num>("\"one\"").is_err());
    }

    #[test]
    fn every_holder_of_numbers() {
        assert_eq!([0.1f32].values().unwrap(), [0.1]);
        assert_eq!(vec![3usize, 4].values().unwrap(), [3.0, 4.0]);
        assert!(Vec::<f64>::new().values().unwrap().is_empty());
        let series = Series::new("x".into(), [Some(1i32), None]);
        let values = series.values().unwrap();
        assert!(values[0] == 1.0 && values[1].is_nan());
        let words = Series::new("name".into(), ["a"]);
        let error = words.values().unwrap_err().to_string();
        assert!(
            error.contains("name") && error.contains("numbers"),
            "{error}"
        );
        let tensor = Tensor::new(&[[1u8, 2], [3, 4]], &candle_core::Device::Cpu).unwrap();
        assert_eq!(tensor.values().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    }
}
