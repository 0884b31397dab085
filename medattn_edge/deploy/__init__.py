"""Deploy: one checkpoint and scans -> the fastest artifact that holds its gate, with what lost, in one release."""

from medattn_edge.deploy.candidates import CandidatePlan
from medattn_edge.deploy.choice import CandidateOutcome
from medattn_edge.deploy.deployment import Deployment, deploy
from medattn_edge.deploy.inputs import DeployInputs, DeploySource
from medattn_edge.deploy.plan import DeployPlan, plan_deployment
from medattn_edge.deploy.recipe import TARGETS, DeployRecipe
from medattn_edge.deploy.release_stage import check_output

__all__ = [
    "TARGETS",
    "CandidateOutcome",
    "CandidatePlan",
    "DeployInputs",
    "DeployPlan",
    "DeployRecipe",
    "DeploySource",
    "Deployment",
    "check_output",
    "deploy",
    "plan_deployment",
]
