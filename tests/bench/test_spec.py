import pytest
from planted import planted_model

import conflayers
from conflayers.bench.peers import PEERS, summary
from conflayers.bench.spec import expand, make_ways, split
from conflayers.bench.sweeps import SWEEPS
from conflayers.errors import InputError
from conflayers.methods import METHODS


def test_plain_decoding_is_always_there_and_first():
    assert expand("conflayers,hf") == ["vanilla", "conflayers", "hf"]
    assert expand("hf,vanilla") == ["vanilla", "hf"]
    assert expand("") == ["vanilla"]


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ("swfit", r"no method 'swfit' \(did you mean 'swift'\?\); there are: .*hf-lookup"),
        ("hf-lokup", "did you mean 'hf-lookup'"),
        ("hf,,swift", "no method ''"),
        ("hf,hf", "named twice: hf"),
        ("swift:skip_ratio", "takes NAME=VALUE, not 'skip_ratio'"),
        ("swift:skip_ratio=.3:skip-ratio=.4", "'skip_ratio' is given twice"),
    ],
)
def test_names_that_mean_nothing(methods, said):
    with pytest.raises(InputError, match=said):
        expand(methods)


def test_options_have_the_type_of_what_is_written():
    assert split("conflayers:variant=rule:lam=-0.4") == ("conflayers", {"variant": "rule", "lam": -0.4})
    assert split("swift:max-iterations=3:fallback=true") == ("swift", {"max_iterations": 3, "fallback": True})


def test_a_comma_or_colon_behind_a_backslash_is_part_of_a_path():
    names = expand(r"hf,fixed:plan=a\,b/c\:d.json,swift")
    assert names == ["vanilla", "hf", r"fixed:plan=a\,b/c\:d.json", "swift"]
    assert split(names[2]) == ("fixed", {"plan": "a,b/c:d.json"})


def test_a_sweep_adds_its_rows_once():
    names = expand("hf,conflayers:variant=paper", ["window", "skip-ratio"])
    assert names[:3] == ["vanilla", "hf", "conflayers:variant=paper"]
    assert len(names) == len(set(names)) == 3 + 2 + 5
    with pytest.raises(InputError, match=r"no sweep 'windows' .*'window'.*lambda"):
        expand("", ["windows"])


@pytest.fixture(scope="module")
def llm():
    return conflayers.Llm(planted_model([2, 3, 4], layers=8))


def test_every_sweep_and_every_method_can_be_made(llm):
    for name, sweep in SWEEPS.items():
        assert len(make_ways(llm, expand("", [name]), {}, False)) == 1 + len(sweep.methods)
    ready = [name for name in METHODS if name not in ("fixed", "draft-verify")]
    ways = make_ways(llm, [*ready, "hf", "hf-lookup", "hf-early-exit"], {}, False)
    assert [way.name for way in ways] == [*ready, "hf", "hf-lookup", "hf-early-exit"]
    assert all(summary(name) for name in PEERS)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf:tokens=3", "'hf' has no option 'tokens'; its options: none"),
        ("hf-lookup:tokens=0", "tokens must be a whole number of 1 or more"),
        ("hf-early-exit:layer=8", "layer must be below the model's 8 layers, not 8"),
        ("llamacpp", "needs a GGUF file of the same weights: llamacpp:file=PATH"),
        ("swift:skip_ration=0.3", "did you mean 'skip_ratio'"),
        ("fixed", "method 'fixed' needs a plan"),
        ("fixed:plan=nowhere.json", "nowhere.json"),
    ],
)
def test_what_cannot_be_made_says_why(llm, name, said):
    with pytest.raises(conflayers.ConfLayersError, match=said):
        make_ways(llm, [name], {}, False)
