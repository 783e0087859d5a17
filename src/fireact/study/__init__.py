"""Studies: a matrix of agents is run once, and its agents are compared with each other and with the paper.

Agents share the stages that they have in common, such as one collection.
"""

from fireact.base.rooms import make_room_callable

make_room_callable(__name__)
