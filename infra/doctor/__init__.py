"""Is everything there that the queue needs, and may it do what it must?"""

from infra.doctor.examine import examine
from infra.doctor.finding import Finding

__all__ = ["Finding", "examine"]
