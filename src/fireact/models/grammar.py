"""Constrains what a student writes: only text, calls and JSON of the requested form can follow (``llguidance``).

Invariant: every finished completion has the form. Calls are written as the student's template writes them, their names
are of callable tools, and their arguments fit the tools' schemas. A constraint that a schema states and llguidance
does not know is left out, and ``Grammar.warnings`` names it. This module knows neither messages nor engines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fireact.errors import ConfigError, FormatError, ProviderError, missing_extra_error
from fireact.models.stops import held_back_length
from fireact.render.call_form import CallForm
from fireact.types import ReplyForm
from fireact.wire.schemas import Schema, schema_name, unwrap_schema

MAX_THOUGHT = 200
"""Characters of text after which a call begins that must come."""
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": True}
"""JSON as ``json.dumps`` writes it, which is how templates write it, and so how students are trained to."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar that is ready for many completions; ``warnings`` names constraints that it leaves out.

    ``trigger`` begins the calls: before it any text may stand, which needs no mask. It is empty where every token must
    be checked. ``trigger_id`` is its id where it is one special token. Without ``may_end`` a call must come.
    """

    matcher: Any
    vocabulary: Any
    ends: tuple[int, ...]
    trigger: str
    trigger_id: int | None
    may_end: bool
    warnings: tuple[str, ...]

    def start(self) -> Constraint:
        """The constraint of one completion."""
        return Constraint(self, self.matcher.deep_copy())


class Constraint:
    """Masks the logits of one completion, in the order of its tokens.

    Free text needs no mask, which would cost time and forbid bytes that are no character yet. So the matcher takes over
    where the text ends in the trigger of the calls; while it ends in a beginning of the trigger, a matcher of that
    beginning forbids tokens that would complete the trigger and go on wrongly.
    """

    def __init__(self, grammar: Grammar, matcher: Any) -> None:
        self._grammar, self._new_matcher = grammar, matcher
        self._matcher = None if grammar.trigger else matcher
        self._mask = torch.full((1, (grammar.vocabulary.vocab_size + 31) // 32), -1, dtype=torch.int32)
        self._bits = torch.arange(32, dtype=torch.int32)
        self._consumed = 0

    def __call__(self, generated: list[int], logits: torch.Tensor) -> torch.Tensor:
        """The logits with minus infinity where a token may not follow. Raises ProviderError when the grammar fails."""
        new_ids, self._consumed = generated[self._consumed :], len(generated)
        if self._matcher is not None:
            return self._apply_mask(self._consume(self._matcher, new_ids), logits)
        matcher = self._find_matcher(generated)
        if matcher is not None:
            return self._apply_mask(matcher, logits)
        return logits if self._grammar.may_end else logits.index_fill(0, torch.tensor(self._grammar.ends), -torch.inf)

    def _find_matcher(self, generated: list[int]) -> Any:
        """The matcher of what may be the beginning of a call at the end of the text; None within free text."""
        grammar, vocabulary = self._grammar, self._grammar.vocabulary
        if grammar.trigger_id is not None:
            begins, beginning_ids = grammar.trigger_id in generated[-1:], [grammar.trigger_id]
            length = len(beginning_ids) if begins else 0
        else:
            tail = vocabulary.decode_str(generated[-len(grammar.trigger.encode()) - 1 :])
            position = tail.find(grammar.trigger)
            begins = position >= 0
            length = len(tail) - position if begins else held_back_length(tail, (grammar.trigger,))
            beginning_ids = vocabulary.tokenize_str(tail[len(tail) - length :]) if length else []
        is_too_long = not grammar.may_end and len(vocabulary.decode_str(generated)) > MAX_THOUGHT
        if not length and not is_too_long:
            return None
        matcher = self._consume(self._new_matcher.deep_copy(), beginning_ids)
        if begins or is_too_long:
            self._matcher = matcher
        return matcher

    def _consume(self, matcher: Any, ids: list[int]) -> Any:
        if ids and not matcher.consume_tokens(ids):
            raise ProviderError(f"the constraint of the reply failed: {matcher.get_error().strip().splitlines()[0]}")
        return matcher

    def _apply_mask(self, matcher: Any, logits: torch.Tensor) -> torch.Tensor:
        matcher.unsafe_compute_mask_ptr(self._mask.data_ptr(), self._mask.numel() * 4)
        allowed = ((self._mask[0].unsqueeze(-1) >> self._bits) & 1).flatten()[: len(logits)].bool()
        masked = torch.full_like(logits, -torch.inf)
        masked[: len(allowed)][allowed] = logits[: len(allowed)][allowed]
        return masked


class GrammarCompiler:
    """Compiles grammars for one tokenizer. Raises ConfigError without llguidance."""

    def __init__(self, tokenizer: Any, *, ends: Sequence[int], vocabulary_size: int) -> None:
        try:
            import llguidance
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise missing_extra_error("llguidance", "serve") from error
        self._matcher_type = llguidance.LLMatcher
        self._tokenizer = tokenizer
        self._vocabulary = from_tokenizer(tokenizer, n_vocab=vocabulary_size, eos_token=list(ends))
        self._ends = tuple(ends)
        added = {str(token): index for index, token in tokenizer.added_tokens_decoder.items()}
        self._special = {text: index for text, index in added.items() if self._vocabulary.is_special_token(index)}
        self._grammars: dict[str, Grammar] = {}

    def compile(self, form: ReplyForm, schemas: Sequence[Schema], call_form: CallForm | None) -> Grammar:
        """The grammar of a form. Raises FormatError for a form that cannot be written as one."""
        source = self.write_source(form, schemas, call_form)
        if source not in self._grammars:
            if len(self._grammars) >= 256:
                self._grammars.clear()
            is_free = call_form is not None and form.json_schema is None
            trigger = self._find_trigger(call_form) if call_form is not None and is_free else ""
            self._grammars[source] = self._compile_source(source, trigger, may_end=form.text)
        return self._grammars[source]

    def _find_trigger(self, call_form: CallForm) -> str:
        """What begins the calls: a special token, or the first line of the text before the first name."""
        first_piece = self._split_special(call_form.opening)[0]
        return first_piece if first_piece in self._special else call_form.trigger

    def _compile_source(self, source: str, trigger: str, *, may_end: bool) -> Grammar:
        matcher = self._matcher_type(self._vocabulary, self._matcher_type.grammar_from_lark(source), log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().strip().splitlines()[0]
            raise FormatError(
                f"the tools or the response_format cannot be constrained ({reason}). Simplify their schemas."
            )
        warnings = tuple(matcher.get_grammar_warnings())
        return Grammar(matcher, self._vocabulary, self._ends, trigger, self._special.get(trigger), may_end, warnings)

    def write_source(self, form: ReplyForm, schemas: Sequence[Schema], call_form: CallForm | None) -> str:
        """The grammar of a form in llguidance's Lark."""
        rules, options = [r"TEXT: /(?s:.*)/"], list[str]()
        if form.callable:
            if call_form is None:
                raise ConfigError(
                    "the student's chat template writes calls in a form that cannot be constrained. Serve it with "
                    "--no-constrain."
                )
            rules += self._write_call_rules(form, schemas, call_form)
            options.append("calls")
        if form.json_schema is not None:
            rules.append(f"answer: %json {_write_schema(form.json_schema)}")
            options.append("answer")
        elif form.text:
            options.append("TEXT")
        return "\n".join([f"start: {' | '.join(options)}", *rules])

    def _write_call_rules(self, form: ReplyForm, schemas: Sequence[Schema], call_form: CallForm) -> list[str]:
        by_name = {schema_name(schema): schema for schema in schemas}
        calls = [
            f"call_{index}: {self._write_text(name + call_form.middle)} "
            f"%json {_write_schema(_close_arguments(by_name[name]))}"
            for index, name in enumerate(form.callable)
        ]
        trigger = self._find_trigger(call_form)
        remaining = call_form.opening[call_form.opening.index(trigger) + len(trigger) :]
        # Where text may stand before the calls, it may stand instead of them: the lazy head decides at the trigger.
        has_text = form.text and form.json_schema is None
        if trigger in self._special:
            head = f"head: {'TEXT? ' if has_text else ''}{self._write_text(trigger)}"
        else:
            head = f"head[lazy]: TEXT {json.dumps(trigger)}" if has_text else f"head: {json.dumps(trigger)}"
        any_call = f"({' | '.join(f'call_{index}' for index in range(len(calls)))})"
        several = form.parallel and call_form.separator is not None
        further = f"({self._write_text(call_form.separator or '')} {any_call})*" if several else ""
        closing = self._write_text(call_form.closing)
        return [
            head, *calls,
            f"calls: head {self._write_text(remaining)} {any_call} {further} {closing}",
        ]  # fmt: skip

    def _split_special(self, text: str) -> list[str]:
        """A text split at the tokens that have no bytes of their own."""
        if not self._special:
            return [text]
        pattern = "|".join(map(re.escape, sorted(self._special, key=len, reverse=True)))
        return [piece for piece in re.split(f"({pattern})", text) if piece] or [""]

    def _write_text(self, text: str) -> str:
        """A fixed text as a sequence of literals and special tokens."""
        return " ".join(
            f"<[{self._special[piece]}]>" if piece in self._special else json.dumps(piece)
            for piece in self._split_special(text)
            if piece
        )


def _write_schema(schema: Mapping[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": _JSON_STYLE})


def _close_arguments(schema: Schema) -> dict[str, Any]:
    """The schema of a tool's arguments, which are those that it names unless it says that there may be others."""
    parameters = unwrap_schema(schema).get("parameters") or {}
    return {"type": "object", "properties": {}, "additionalProperties": False, **parameters}
