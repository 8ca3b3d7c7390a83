"""The unmodified model with training examples in front of every prompt."""

from pydantic import Field

from lofit.methods.method import Method
from lofit.spec.hyperparameters import NoParams


class Params(NoParams):
    """How many examples."""

    shots: int = Field(default=4, ge=1, description="training examples in front of every test prompt")


METHOD = Method(
    name="fewshot",
    summary="the model as it is, with training examples in the prompt",
    source="Brown et al. 2020 (arXiv 2005.14165); put together by lm-evaluation-harness",
    Params=Params,
    learns="nothing; the examples are drawn from the training rows by the run's seed and are the same for every item",
    parameters="0",
    deviations="on TruthfulQA the examples stand in front of the protocol's own instruction and six QA pairs; not "
    "scored under the protocols harness and open, whose prompts take no examples of ours",
    shots=lambda params: params.shots,
)
