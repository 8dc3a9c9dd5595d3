//! The three layouts, read into one.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Document, QaError, QaFormat, QaSet, Question};

#[derive(Deserialize)]
struct Squad {
    data: Vec<Article>,
}

#[derive(Deserialize)]
struct Article {
    #[serde(default)]
    title: String,
    paragraphs: Vec<Paragraph>,
}

#[derive(Deserialize)]
struct Paragraph {
    context: String,
    qas: Vec<SquadQuestion>,
}

#[derive(Deserialize)]
struct SquadQuestion {
    question: String,
    #[serde(default)]
    is_impossible: bool,
    #[serde(default)]
    answers: Vec<SquadAnswer>,
}

#[derive(Deserialize)]
struct SquadAnswer {
    text: String,
}

#[derive(Deserialize)]
struct HotpotQuestion {
    question: String,
    answer: String,
    context: Vec<(String, Vec<String>)>,
    #[serde(default)]
    supporting_facts: Vec<(String, serde_json::Value)>,
}

#[derive(Deserialize)]
struct Line {
    question: String,
    answers: Vec<String>,
    ctxs: Vec<LineDocument>,
}

#[derive(Deserialize)]
struct LineDocument {
    #[serde(default)]
    title: String,
    text: String,
    #[serde(default)]
    isgold: bool,
    #[serde(default)]
    hasanswer: Option<bool>,
}

/// A question whose documents are not yet numbered.
struct Raw {
    text: String,
    answers: Vec<String>,
    gold: Vec<Document>,
    context: Vec<Document>,
    near: Vec<Document>,
}

impl QaSet {
    /// Reads a file of any of the three layouts.
    ///
    /// # Errors
    ///
    /// [`QaError::Layout`] and [`QaError::NoQuestions`].
    pub fn parse(text: &str) -> Result<Self, QaError> {
        let layout = |error: serde_json::Error| QaError::Layout(error.to_string());
        let begins_with = |c: char| text.trim_start().starts_with(c);
        if begins_with('[') {
            let questions: Vec<HotpotQuestion> = serde_json::from_str(text).map_err(layout)?;
            return numbered(QaFormat::Hotpot, questions.into_iter().map(hotpot).collect(), Vec::new());
        }
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
        if serde_json::from_str::<Line>(first).is_ok() {
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            let questions: Vec<Line> = lines.map(serde_json::from_str).collect::<Result<_, _>>().map_err(layout)?;
            return numbered(QaFormat::LostInTheMiddle, questions.into_iter().map(line).collect(), Vec::new());
        }
        let file: Squad = serde_json::from_str(text).map_err(layout)?;
        let (questions, documents) = squad(file);
        numbered(QaFormat::Squad, questions, documents)
    }
}

fn squad(file: Squad) -> (Vec<Raw>, Vec<Document>) {
    let (mut questions, mut documents) = (Vec::new(), Vec::new());
    for article in file.data {
        let document = |text: &str| Document { title: article.title.clone(), text: text.to_owned() };
        let all: Vec<Document> = article.paragraphs.iter().map(|p| document(&p.context)).collect();
        for paragraph in &article.paragraphs {
            let here = document(&paragraph.context);
            questions.extend(paragraph.qas.iter().filter(|qa| !qa.is_impossible).map(|qa| Raw {
                text: qa.question.clone(),
                answers: qa.answers.iter().map(|answer| answer.text.clone()).collect(),
                gold: vec![here.clone()],
                context: vec![here.clone()],
                near: all.iter().filter(|other| **other != here).cloned().collect(),
            }));
        }
        documents.extend(all);
    }
    (questions, documents)
}

fn hotpot(question: HotpotQuestion) -> Raw {
    let is_gold = |title: &str| question.supporting_facts.iter().any(|(fact, _)| fact == title);
    let document =
        |(title, sentences): &(String, Vec<String>)| Document { title: title.clone(), text: sentences.concat() };
    let context: Vec<Document> = question.context.iter().map(document).collect();
    let gold: Vec<Document> = context.iter().filter(|d| is_gold(&d.title)).cloned().collect();
    Raw {
        text: question.question,
        answers: vec![question.answer],
        // Without supporting facts any of the documents may hold the answer.
        gold: if gold.is_empty() { context.clone() } else { gold },
        context,
        near: Vec::new(),
    }
}

fn line(line: Line) -> Raw {
    let any_gold = line.ctxs.iter().any(|d| d.isgold);
    let is_gold = |d: &LineDocument| if any_gold { d.isgold } else { d.hasanswer == Some(true) };
    let document = |d: &LineDocument| Document { title: d.title.clone(), text: d.text.clone() };
    Raw {
        text: line.question,
        answers: line.answers,
        gold: line.ctxs.iter().filter(|d| is_gold(d)).map(document).collect(),
        context: line.ctxs.iter().map(document).collect(),
        near: Vec::new(),
    }
}

fn numbered(format: QaFormat, raw: Vec<Raw>, more: Vec<Document>) -> Result<QaSet, QaError> {
    let usable = |q: &Raw| q.answers.iter().any(|answer| !answer.trim().is_empty()) && !q.gold.is_empty();
    let questions: Vec<Raw> = raw.into_iter().filter(usable).collect();
    if questions.is_empty() {
        return Err(QaError::NoQuestions);
    }
    let mut numbers: BTreeMap<(String, String), usize> = BTreeMap::new();
    let key = |d: &Document| (d.text.clone(), d.title.clone());
    for document in questions.iter().flat_map(|q| q.context.iter().chain(&q.near)).chain(&more) {
        numbers.insert(key(document), 0);
    }
    numbers.values_mut().enumerate().for_each(|(index, number)| *number = index);
    let number = |documents: &[Document]| -> Vec<usize> {
        let mut all: Vec<usize> = documents.iter().filter_map(|d| numbers.get(&key(d)).copied()).collect();
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|index| seen.insert(*index));
        all
    };
    let questions = questions
        .iter()
        .map(|q| Question {
            text: q.text.clone(),
            answers: q.answers.iter().filter(|answer| !answer.trim().is_empty()).cloned().collect(),
            gold: number(&q.gold),
            context: number(&q.context),
            near: number(&q.near),
        })
        .collect();
    let documents = numbers.into_keys().map(|(text, title)| Document { title, text }).collect();
    Ok(QaSet { format, documents, questions })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::qa::tests::{HOTPOT, LINES, SQUAD};

    #[test]
    fn squad_leaves_out_what_cannot_be_answered_and_knows_the_article() {
        let set = QaSet::parse(SQUAD).unwrap();
        assert_eq!((set.format, set.documents.len(), set.questions.len()), (QaFormat::Squad, 3, 2));
        let first = &set.questions[0];
        assert_eq!(first.answers, ["near Morn", "Morn"]);
        assert_eq!(set.documents[first.gold[0]].text, "The Avel rises near Morn.");
        assert_eq!(
            first.near.iter().map(|&i| set.documents[i].text.as_str()).collect::<Vec<_>>(),
            ["The Besk is short."]
        );
        assert!(set.documents.is_sorted_by(|a, b| a.text <= b.text));
    }

    #[test]
    fn hotpot_has_its_supporting_documents_as_gold() {
        let set = QaSet::parse(HOTPOT).unwrap();
        let question = &set.questions[0];
        assert_eq!((set.format, question.context.len(), question.gold.len()), (QaFormat::Hotpot, 3, 2));
        let dusk = set.documents.iter().find(|d| d.title == "Dusk").unwrap();
        assert_eq!(dusk.text, "Dusk is a film of 1990. It is long.");
        assert!(question.gold.iter().all(|&i| set.documents[i].title != "Noon"));
    }

    #[test]
    fn lines_have_one_gold_document() {
        let set = QaSet::parse(&LINES.repeat(2)).unwrap();
        assert_eq!((set.format, set.documents.len(), set.questions.len()), (QaFormat::LostInTheMiddle, 2, 2));
        assert_eq!(set.documents[set.questions[0].gold[0]].title, "It");
    }

    #[test]
    fn foreign_and_empty_files_are_refused() {
        assert!(matches!(QaSet::parse("{}"), Err(QaError::Layout(_))));
        assert!(matches!(QaSet::parse(""), Err(QaError::Layout(_))));
        assert!(matches!(QaSet::parse("[1]"), Err(QaError::Layout(_))));
        assert_eq!(QaSet::parse(r#"{"data": []}"#), Err(QaError::NoQuestions));
        assert_eq!(QaSet::parse("[]"), Err(QaError::NoQuestions));
        let broken = format!("{LINES}nonsense\n");
        assert!(matches!(QaSet::parse(&broken), Err(QaError::Layout(_))));
    }
}
