//! The two kinds of caller's transaction behind one face. Statements are not prepared by name, so that they work through
//! a pooler that hands out connections transaction by transaction.

use std::error::Error;
use std::future::Future;

use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

/// A parameter, or a column of an answer.
#[derive(Clone, Debug)]
pub enum Value {
    Uuid(Option<Uuid>),
    Number(Option<i64>),
    Text(String),
    Flag(bool),
    Bytes(Option<Vec<u8>>),
}

/// What the database refused, and under which SQLSTATE.
#[derive(Debug)]
pub struct Refusal {
    pub code: Option<String>,
    pub source: Box<dyn Error + Send + Sync>,
}

/// What a transaction can do.
pub trait Driver: Send {
    /// Runs statements without parameters.
    fn run(&mut self, sql: &'static str) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Runs a statement. `shape` names the kind of each column: `u`uid, `n`umber, `t`ext, `f`lag, `b`ytes.
    fn rows(
        &mut self,
        sql: &'static str,
        values: &[Value],
        shape: &'static str,
    ) -> impl Future<Output = Result<Vec<Vec<Value>>, Refusal>> + Send;
}

impl From<tokio_postgres::Error> for Refusal {
    fn from(error: tokio_postgres::Error) -> Self {
        Self { code: error.code().map(|code| code.code().to_owned()), source: error.into() }
    }
}

impl Driver for tokio_postgres::Transaction<'_> {
    async fn run(&mut self, sql: &'static str) -> Result<(), Refusal> {
        Ok(self.batch_execute(sql).await?)
    }

    async fn rows(
        &mut self,
        sql: &'static str,
        values: &[Value],
        shape: &'static str,
    ) -> Result<Vec<Vec<Value>>, Refusal> {
        let params: Vec<(&(dyn ToSql + Sync), Type)> = values
            .iter()
            .map(|value| match value {
                Value::Uuid(uuid) => (uuid as &(dyn ToSql + Sync), Type::UUID),
                Value::Number(number) => (number as &(dyn ToSql + Sync), Type::INT8),
                Value::Text(text) => (text as &(dyn ToSql + Sync), Type::TEXT),
                Value::Flag(flag) => (flag as &(dyn ToSql + Sync), Type::BOOL),
                Value::Bytes(bytes) => (bytes as &(dyn ToSql + Sync), Type::BYTEA),
            })
            .collect();
        let rows = self.query_typed(sql, &params).await?;
        let one = |row: &tokio_postgres::Row| {
            let cell = |(column, kind)| {
                Ok(match kind {
                    'u' => Value::Uuid(row.try_get(column)?),
                    'n' => Value::Number(row.try_get(column)?),
                    't' => Value::Text(row.try_get(column)?),
                    'f' => Value::Flag(row.try_get(column)?),
                    _ => Value::Bytes(row.try_get(column)?),
                })
            };
            shape.chars().enumerate().map(cell).collect::<Result<_, tokio_postgres::Error>>()
        };
        Ok(rows.iter().map(one).collect::<Result<_, _>>()?)
    }
}

#[cfg(feature = "sqlx")]
mod of_sqlx {
    use sqlx_core::query::query;
    use sqlx_core::raw_sql::raw_sql;
    use sqlx_core::row::Row;
    use sqlx_core::transaction::Transaction;
    use sqlx_postgres::{PgRow, Postgres};

    use super::{Driver, Refusal, Value};

    impl From<sqlx_core::Error> for Refusal {
        fn from(error: sqlx_core::Error) -> Self {
            let code = error.as_database_error().and_then(|said| said.code()).map(|code| code.into_owned());
            Self { code, source: error.into() }
        }
    }

    impl Driver for Transaction<'_, Postgres> {
        async fn run(&mut self, sql: &'static str) -> Result<(), Refusal> {
            raw_sql(sql).execute(&mut **self).await?;
            Ok(())
        }

        async fn rows(
            &mut self,
            sql: &'static str,
            values: &[Value],
            shape: &'static str,
        ) -> Result<Vec<Vec<Value>>, Refusal> {
            let mut query = query::<Postgres>(sql).persistent(false);
            for value in values {
                query = match value.clone() {
                    Value::Uuid(uuid) => query.bind(uuid),
                    Value::Number(number) => query.bind(number),
                    Value::Text(text) => query.bind(text),
                    Value::Flag(flag) => query.bind(flag),
                    Value::Bytes(bytes) => query.bind(bytes),
                };
            }
            let rows = query.fetch_all(&mut **self).await?;
            let one = |row: &PgRow| {
                let cell = |(column, kind): (usize, char)| {
                    Ok(match kind {
                        'u' => Value::Uuid(row.try_get(column)?),
                        'n' => Value::Number(row.try_get(column)?),
                        't' => Value::Text(row.try_get(column)?),
                        'f' => Value::Flag(row.try_get(column)?),
                        _ => Value::Bytes(row.try_get(column)?),
                    })
                };
                shape.chars().enumerate().map(cell).collect::<Result<_, sqlx_core::Error>>()
            };
            Ok(rows.iter().map(one).collect::<Result<_, _>>()?)
        }
    }
}
