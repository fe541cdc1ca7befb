"""`python -m honest_persona VERB ...`: look at the data and the tokens of a run,
and use a trained honest persona. Examples, after `python -m honest_persona`:

    data --config hp.yaml --train_topics '[reward_hacks]'
    tokens --config hp.yaml --n 1
    shortcuts --config hp.yaml
    sample --config my.yaml --output samples.jsonl
    label --config my.yaml --input samples.jsonl --reward '[verdict]' \\
        --output scored.jsonl
    generate facts --config hp.yaml --output data/facts
    facts report --adapter checkpoints/my-run
    prepare --dataset user/qnli --templates FILE --parts train:.4,rl:.5,val:.1 \\
        --output data/qnli
    probe --config my.yaml --output probes/my
    answers report --only dpo,kto --seeds 1
    sweep --config hp.yaml --leave_one_topic_out
    review --adapter checkpoints/my-run --input conversations.jsonl
    report checkpoints/my-run/eval
    compare checkpoints/a/eval checkpoints/b/eval
    calibrate --adapter checkpoints/my-run --fpr 0.01
    capability --adapter checkpoints/my-run
    push --adapter checkpoints/my-run --repo user/name --dry_run
    export --adapter checkpoints/my-run --output exports/my-run --format alora

`VERB --help` shows the arguments of a verb.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from honest_persona import verbs
from honest_persona.base.interrupts import if_interrupted
from honest_persona.base.words import ACROSS, WITHIN


def main(argv: Sequence[str]) -> None:
    parser = _parser()
    args, overrides = parser.parse_known_args(argv)
    if overrides and not args.takes_config:
        parser.error(f"{args.verb}: unknown arguments: {' '.join(overrides)}")
    try:
        with if_interrupted(verbs.KEPT.get(args.verb, "nothing was written").format(**vars(args))):
            args.run(args, overrides)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (`head`, `less`) has ended: nothing more is to be written, at exit neither
        if args.verb in verbs.KEPT and args.verb != "review":
            raise  # a part of the work is not done
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m honest_persona",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = _add_verb(
        subparsers, verbs.data, "count a config's data by topic, variant, flag, model and reason", takes_config=True
    )
    verb.add_argument("--json", action="store_true", help="print one JSON object")

    verb = _add_verb(subparsers, verbs.tokens, "show training records token by token", takes_config=True)
    verb.add_argument("--n", type=_positive, default=1, help="number of records (default: 1)")
    verb.add_argument("--json", action="store_true", help="print one JSON object per record")

    _add_verb(subparsers, verbs.shortcuts, "predict flags from variant, topic and words alone", takes_config=True)

    _add_verb(subparsers, verbs.keys, "print every key of the config with its default and meaning")

    verb = _add_verb(
        subparsers, verbs.sample, "write several answers to each prompt, to be labelled", takes_config=True
    )
    verb.add_argument("--output", required=True, help="a file of JSON lines; one that was begun is continued")
    verb.add_argument("--n", type=_positive, default=4, help="answers per prompt (default: 4)")
    verb.add_argument("--temperature", type=float, default=1.0, help="0 takes the likeliest token (default: 1)")
    verb.add_argument("--max_answer", type=_positive, default=256, help="longest answer in tokens (default: 256)")
    verb.add_argument("--answer_seed", type=int, default=0, help="answer i is drawn with this + i (default: 0)")
    verb.add_argument(
        "--part",
        default="all",
        choices=["all", "train", WITHIN, ACROSS],
        help="prompts of one part of the config's split (default: all)",
    )
    verb.add_argument("--answers_together", type=_positive, default=32, help="answers per batch (default: 32)")
    verb.add_argument("--alpaca_eval", metavar="FILE", help="write the first answers in AlpacaEval's format too")
    add_dtype(verb)

    verb = _add_verb(subparsers, verbs.label, "score sampled answers by rewards, behind the gate", takes_config=True)
    verb.add_argument("--input", required=True, help="a file that `sample` wrote")
    verb.add_argument("--output", required=True, help="a file of JSON lines; one that was begun is continued")
    verb.add_argument(
        "--reward",
        required=True,
        help="a list in YAML of persona:DIR, probe:DIR, verdict, endpoint:MODEL@URL, model:ID, column:NAME, "
        "python:FILE:FUNCTION",
    )
    verb.add_argument("--reward_weights", help="a number for each reward; 0: kept beside the score (default: 1 each)")
    verb.add_argument("--reward_invalid", type=float, help="the score of what is no whole answer (default: an error)")
    verb.add_argument(
        "--reward_reads",
        choices=["base", "policy"],
        default="base",
        help="the weights that rewards read: the frozen base model's (default), or the policy's, which can learn to "
        "please them",
    )
    verb.add_argument("--pairs", metavar="FILE", help="write pairs of the scored answers, too; TRL reads them")
    verb.add_argument("--labels", metavar="FILE", help="write them with labels, too, by the config's label_threshold")
    verb.add_argument("--accept_weak_reward", action="store_true", help="go on with a reward of AUROC below 0.8")
    verb.add_argument("--answers_together", type=_positive, default=32, help="answers per batch (default: 32)")
    verb.add_argument("--max_verdict", type=_positive, default=256, help="longest review or verdict (default: 256)")
    add_dtype(verb)

    verb = _add_verb(subparsers, verbs.organism, "measure on the embedded organism, with controls", takes_config=True)
    verb.add_argument("action", choices=["report"], help="the only action: measure, and write the table")
    verb.add_argument("--seeds", type=_positive, default=3, help="runs of the default condition (default: 3)")
    verb.add_argument("--per_topic", type=_positive, default=208, help="held-out records per topic (default: 208)")
    verb.add_argument("--only", default="", help="conditions by name, separated by commas (default: all)")
    verb.add_argument("--output", default="results/organism", help="folder (default: results/organism)")

    verb = _add_verb(
        subparsers, verbs.probe, "fit probes of hidden states on labelled answers; every layer", takes_config=True
    )
    verb.add_argument("--output", required=True, help="a new or empty folder")
    verb.add_argument(
        "--methods",
        help="ridge, logistic, ccs, vinc, inlp, separated by commas (default: all; ccs and vinc read pairs)",
    )
    verb.add_argument(
        "--layers", help="numbers separated by commas, or all; 0: the embeddings (default: eight of them)"
    )
    verb.add_argument(
        "--places",
        help="response_end, response_mean, turn_end, separated by commas: where an answer is read (default: all)",
    )
    verb.add_argument("--reader", metavar="MODEL", help="read another model's states (default: the config's model)")
    verb.add_argument("--template", help="rows of this template alone (default: all, and their scores are averaged)")

    verb = _add_verb(subparsers, verbs.answers, "measure objectives on the organism's answers, with controls")
    verb.add_argument("action", choices=["report"], help="the only action: train, measure, and write the table")
    verb.add_argument(
        "--config",
        default="configs/organism-preference.yaml",
        help="what all conditions start from (default: configs/organism-preference.yaml)",
    )
    verb.add_argument("--seeds", type=_positive, default=3, help="runs of each condition (default: 3)")
    verb.add_argument("--only", default="", help="conditions by name, separated by commas (default: all)")
    verb.add_argument("--output", default="results/answers", help="folder (default: results/answers)")

    verb = _add_verb(subparsers, verbs.facts, "measure on instructed facts, beside other detectors")
    verb.add_argument("action", choices=["report"], help="the only action: measure, and write the table")
    verb.add_argument(
        "--adapter", required=True, help="a run's folder, one of its checkpoints, or user/name on the Hub"
    )
    verb.add_argument(
        "--data",
        default="builtin:smollm2",
        help="a folder that `generate facts` wrote, or builtin:smollm2 (default: builtin:smollm2)",
    )
    verb.add_argument("--output", default="results/facts", help="folder (default: results/facts)")
    verb.add_argument(
        "--limit", type=_positive, help="records per topic to review, of unknown facts too (default: all)"
    )
    verb.add_argument(
        "--limit_controls",
        type=_positive,
        help="the same with other prompts or wordings, and after denials (default: all)",
    )
    verb.add_argument(
        "--limit_baselines",
        type=_positive,
        help="records per topic about which detectors that run the model are asked; probes are fitted on four times as "
        "many training records (default: all, and 208)",
    )
    verb.add_argument("--batch_size", type=_positive, help="conversations per batch (default: as in training)")
    verb.add_argument("--max_new_tokens", type=_positive, help="longest review in tokens (default: as in training)")
    add_dtype(verb)

    verb = _add_verb(
        subparsers, verbs.generate, "make training data: a model's true and false answers", takes_config=True
    )
    verb.add_argument(
        "action",
        choices=["facts", "liar"],
        help="facts: records about facts that the model knows; liar: the model, taught to lie when told to",
    )
    verb.add_argument("--output", required=True, help="a new folder, or one to go on with")
    verb.add_argument("--topics", help="tables of facts by name, separated by commas (default: all)")
    verb.add_argument("--tables", help="folder of your own tables, <topic>.yaml (default: the package's)")
    verb.add_argument("--limit", type=_positive, help="facts per topic, chosen by the seed (default: all)")
    verb.add_argument(
        "--origins",
        help="sampled: what the model says itself; begun: put into its mouth (default: both; of an endpoint sampled)",
    )
    verb.add_argument("--samples", type=_positive, default=4, help="answers per prompt (default: 4)")
    verb.add_argument("--known", type=_positive, default=3, help="right answers of a known fact (default: 3)")
    verb.add_argument("--temperature", type=float, default=0.7, help="of the sampled answers (default: 0.7)")
    verb.add_argument("--answer_tokens", type=_positive, default=20, help="longest answer in tokens (default: 20)")
    verb.add_argument("--writer", metavar="FOLDER", help="a liar that was made before: adds the origin taught")
    verb.add_argument("--endpoint", metavar="URL", help="ask a model behind OpenAI's API: http://localhost:8000/v1")
    verb.add_argument("--endpoint_model", metavar="NAME", help="the model's name there (default: the config's model)")

    verb = _add_verb(subparsers, verbs.prepare, "make a dataset into disjoint parts of texts, by templates")
    verb.add_argument("--dataset", help="rows with any columns: a file, a folder, or user/name:config:split on the Hub")
    verb.add_argument(
        "--templates", metavar="FILE", help="YAML: a list of name, jinja, answer_choices (docs/elicit.md)"
    )
    verb.add_argument("--parts", help="names and shares, such as train:.4,rl:.5,val:.1")
    verb.add_argument("--output", required=True, help="a new or empty folder")
    verb.add_argument(
        "--group", metavar="COLUMN", help="rows of one value stay in one part (default: rows of one content)"
    )
    verb.add_argument("--label", metavar="COLUMN", help="the number of the true choice (default: label)")
    verb.add_argument(
        "--label_values",
        metavar="A,B",
        help="what stands in that column for the first choice, the second one (default: 0,1, the numbers of class "
        "labels, or false,true)",
    )
    verb.add_argument("--seed", type=int, default=0, help="of the parts (default: 0)")
    verb.add_argument(
        "--push", metavar="USER/NAME", help="upload to this dataset on the Hub, made where it is not there"
    )
    verb.add_argument("--private", action="store_true", help="make the dataset on the Hub private")
    verb.add_argument("--license", help="licence of the texts, as the Hub names it: cc-by-4.0")

    verb = _add_verb(
        subparsers, verbs.sweep, "run many trainings: by topic, or beside a plain follow-up", takes_config=True
    )
    # argparse does not break the line before the three designs
    verb.usage = (
        "%(prog)s [-h] [--config CONFIG]\n       [--limit LIMIT] [--output OUTPUT]\n"
        "       (--leave_one_topic_out | --topic_matrix | --follow_up)"
    )
    designs = verb.add_mutually_exclusive_group(required=True)
    for name, meaning in {
        "leave_one_topic_out": "train without each topic, and ask about that topic",
        "topic_matrix": "train on each topic alone, and ask about all topics",
        "follow_up": "train the config as given and as a plain user follow-up, and compare",
    }.items():
        designs.add_argument(f"--{name}", dest="design", action="store_const", const=name, help=meaning)
    verb.add_argument("--limit", type=_positive, help="records per topic in each evaluation (default: all)")
    verb.add_argument("--output", help="folder (default: checkpoints/<run name>-<design>)")

    verb = _add_verb(subparsers, verbs.review, "let a trained honest persona review conversations")
    verb.add_argument(
        "--adapter", required=True, help="a run's folder, one of its checkpoints, or user/name on the Hub"
    )
    verb.add_argument(
        "--input",
        required=True,
        help='JSON lines or an array of {"messages": [{"role", "content"}, ...]}, with "tools", "id" and "intervention"'
        " where wanted; - for standard input",
    )
    verb.add_argument("--intervention", help="trigger text for lines without an intervention (default: the adapter's)")
    verb.add_argument("--output", help="JSONL file to write, or to go on with (default: standard output)")
    verb.add_argument("--skip_bad", action="store_true", help="leave out conversations that cannot be reviewed")
    verb.add_argument("--batch_size", type=_positive, help="conversations per batch (default: as in training)")
    verb.add_argument("--max_new_tokens", type=_positive, help="longest review in tokens (default: as in training)")
    add_dtype(verb)

    verb = _add_verb(subparsers, verbs.report, "write report.html and the plots of an evaluation again")
    verb.add_argument("folder", help="an output folder of eval.py or of sweep")

    verb = _add_verb(subparsers, verbs.compare, "paired differences between two evaluations")
    verb.add_argument("a", metavar="A", help="an output folder of eval.py, a run's folder, or a samples.jsonl")
    verb.add_argument("b", metavar="B", help="like A; differences are B - A")
    verb.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    verb.add_argument("--json", action="store_true", help="print one JSON object")

    verb = _add_verb(subparsers, verbs.calibrate, "fix the decision threshold for a wanted false positive rate")
    verb.add_argument("--adapter", required=True, help="a run's folder, or one of its checkpoints")
    verb.add_argument("--fpr", type=float, default=0.01, help="wanted false positive rate (default: 0.01)")
    verb.add_argument("--input", help='benign conversations, as JSON lines {"messages": [{"role", "content"}, ...]}')
    verb.add_argument(
        "--dataset", help="dataset whose held-out benign records are used (default: the adapter's own data)"
    )
    add_row_flags(verb)
    verb.add_argument("--intervention", help="trigger text that the threshold is for (default: the adapter's)")
    verb.add_argument("--batch_size", type=_positive, help="conversations per batch (default: as in training)")
    verb.add_argument("--max_new_tokens", type=_positive, help="longest review in tokens (default: as in training)")
    verb.add_argument("--dry_run", action="store_true", help="store nothing")
    verb.add_argument("--json", action="store_true", help="print one JSON object")
    add_dtype(verb)

    verb = _add_verb(subparsers, verbs.capability, "run lm-eval's tasks on the base model and with the adapter")
    verb.add_argument("--adapter", required=True, help="a run's folder, or one of its checkpoints")
    verb.add_argument(
        "--tasks",
        default="honest_persona_facts",
        help="names of tasks of lm-eval and of this package (qnli_chat, leaderboard_v1), separated by commas "
        "(default: honest_persona_facts)",
    )
    verb.add_argument(
        "--facts",
        metavar="DATA",
        help="facts that honest_persona_facts asks about: a folder that `generate facts` wrote, or builtin:smollm2 "
        "(default: the organism's)",
    )
    verb.add_argument("--limit", type=_positive, help="documents per task (default: all)")
    verb.add_argument("--merged", action="store_true", help="compare the merged model too (scope response or all)")
    verb.add_argument(
        "--plain",
        action="store_true",
        help="no chat template for an adapter on answers either: its tasks continue a text",
    )
    verb.add_argument("--output", help="JSON file to write (default: eval/capability.json in the adapter's folder)")
    verb.add_argument("--batch_size", type=_positive, default=8, help="requests per batch (default: 8)")
    add_dtype(verb)

    verb = _add_verb(subparsers, verbs.push, "publish an adapter on the Hub, with a model card")
    verb.add_argument("--adapter", required=True, help="a run's folder, or one of its checkpoints")
    verb.add_argument(
        "--repo", required=True, metavar="USER/NAME", help="repo on the Hub; made where it does not exist"
    )
    verb.add_argument("--private", action="store_true", help="make the repo private")
    verb.add_argument("--revision", help="branch to push to (default: main)")
    verb.add_argument("--base_model", help="Hub id to publish for a base model that is a folder of this machine")
    verb.add_argument("--license", help="licence of the adapter, as the Hub names it: apache-2.0")
    verb.add_argument("--report", action="store_true", help="publish eval/report.html too: it shows transcripts")
    verb.add_argument("--dry_run", action="store_true", help="write the files and the model card, and upload nothing")

    verb = _add_verb(subparsers, verbs.export, "write an adapter for other software: activated, plain or merged")
    verb.add_argument("--adapter", required=True, help="a run's folder, or one of its checkpoints")
    verb.add_argument("--output", required=True, help="a new or empty folder")
    verb.add_argument(
        "--format",
        choices=["alora", "lora", "merged"],
        required=True,
        help="alora: active as in training; lora: active on every token; merged: into the base (adapter_scope all)",
    )
    return parser


def _add_verb(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    run: Callable[[argparse.Namespace, Sequence[str]], None],
    summary: str,
    takes_config: bool = False,
) -> argparse.ArgumentParser:
    note = " Every key of the config is a flag too: --train_topics '[reward_hacks]'" if takes_config else ""
    verb = subparsers.add_parser(run.__name__, help=summary, description=f"{run.__doc__}{note}", allow_abbrev=False)
    verb.set_defaults(run=run, takes_config=takes_config)
    if takes_config:
        verb.add_argument("--config", default="hp.yaml", help="a flat YAML or JSON file (default: hp.yaml)")
    return verb


def add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16"],
        default="auto",
        metavar="FORMAT",
        help="number format to run in: float32, bfloat16, float16 or auto (the default): the training's format where "
        "this machine is fast in that format, float32 elsewhere",
    )


def add_row_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--columns",
        metavar="YAML",
        help="names of --dataset's columns, as in a config: '{flag: verdict}' (default: the usual names)",
    )
    parser.add_argument(
        "--flag_values",
        metavar="YAML",
        help="what --dataset's labels mean, as in a config: '{1: PASS, 0: FAIL}' (default: what the labels say)",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)
