"""The figures that move: one Python class and one ES module for each."""

from .attention import Attention
from .block_tables import BlockTables, block_shot
from .break_it import BreakIt
from .code_changes import CodeChanges
from .generation import Generation
from .kv_timeline import KVTimeline
from .memory_calculator import MemoryCalculator
from .own_prompt import OwnPrompt
from .ring import Ring
from .speed_race import SpeedRace
