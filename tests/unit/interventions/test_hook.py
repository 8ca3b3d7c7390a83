"""Registration with PEFT, in fresh interpreters where the order of imports matters."""

import pickle
import subprocess
import sys
from pathlib import Path

import peft
import pytest

from lofit.errors import EditError
from lofit.interventions import LofitConfig, hook, register

REPOSITORY = Path(__file__).parents[3]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_stays_light():
    code = "import sys, lofit, lofit.interventions; print([m for m in ('torch', 'peft') if m in sys.modules])"
    assert run(code) == "[]"


def test_asking_where_peft_is_neither_imports_nor_loses_the_registration(tmp_path):
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "__init__.py").write_text("ready = True")
    code = f"""
import sys, importlib.util
sys.path.insert(0, {str(tmp_path)!r})
import lofit.interventions.hook as hook
hook.register = lambda: print("registered", sys.modules["peft"].ready)
importlib.util.find_spec("peft")
print("peft" in sys.modules)
import peft
print([type(finder).__name__ for finder in sys.meta_path if isinstance(finder, hook._PeftFinder)])
"""
    assert run(code).splitlines() == ["False", "registered True", "[]"]


def test_peft_imported_first_is_registered_with_at_once():
    code = """
import lofit.interventions.hook as hook, sys, types
hook.register = lambda: print("registered")
sys.modules["peft"] = types.ModuleType("peft")
hook.register_after_peft_import()
"""
    assert run(code) == "registered"


def test_registering_again_changes_nothing():
    before = list(peft.PeftType)
    register()
    hook.register_after_peft_import()
    assert list(peft.PeftType) == before
    assert before.count("LOFIT") == 1


def test_the_new_member_behaves_like_the_others():
    member = peft.PeftType.LOFIT
    assert member == "LOFIT" and peft.PeftType("LOFIT") is member
    assert pickle.loads(pickle.dumps(member)) is member
    assert peft.PeftType.LOFIT in {member: 1} and "LOFIT" in {member: 1}
    assert LofitConfig().peft_type is member


def test_a_foreign_method_of_the_same_name_is_refused(monkeypatch):
    monkeypatch.setitem(peft.PEFT_TYPE_TO_CONFIG_MAPPING, peft.PeftType.LOFIT, peft.LoraConfig)
    with pytest.raises(EditError, match=r"peft .* already has another method named LOFIT"):
        register()
