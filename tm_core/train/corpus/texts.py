"""What the synthetic voices say: plain English sentences with all its sounds, without end and without repetition.

Written for this project, so free of other rights. `sentences` mixes a fixed list, made so that every English
phone and many clusters occur, with sentences put together from parts. Non-goals: sense.
"""

from __future__ import annotations

import numpy as np

FIXED = """
The bright moon hung above the frozen pond, and nobody dared to speak.
Please put both boots by the back door before you begin to paint.
My father's violin was given to the village museum five years ago.
She showed us fresh fish, smooth shells, and a shiny silver watch.
Few people believe that a beaver built the bridge by the mill.
Why would a young woman want to walk home in weather like this?
Thirty thousand thistles covered the path to the northern cottage.
The judge judged gently, but George was just as angry as before.
A cheerful child chose cherries and cheese for lunch in the church yard.
Good cooks could look for a book about sugar and wool.
Every autumn, orange leaves fall across the lawn and along the wall.
I thought the author caught a cold, though he coughed only once.
How now did the brown cow get down from the crowded town house?
The boy enjoyed the noise of the oysters boiling in oil.
Zebras and lazy lizards dozed as the breeze rose over the zoo.
Treasure, pleasure and leisure are usually measured by vision, not by speed.
Maps may improve if mothers and fathers stop moving the lamps.
Perhaps the pepper plants will ripen by the middle of September.
Mom baked plum pies for the whole team, and Bob ate a pumpkin.
Seven quiet queens quickly questioned the clever squirrel.
We were away for a week, while the wind was howling wildly.
The king is singing a long song, bringing everything to an evening end.
He had heard his hat was hidden behind the heavy house.
Yes, your yellow yacht yielded to the huge cruise ship yesterday.
Her nurse heard the first bird chirping early on Thursday.
Eat these peas and beans, please; they are cheap and easy to keep.
It is a bit of a pity that six slim kittens live in this tin.
Take the late train to the lake and wait by the gate for eight.
Ten men went to get red pens from the shed next to the well.
Sad Sam sat in the back of the cab with a black cat and a bag.
Father parked the large car in the yard beside a calm garden.
Some of us love to come up from under the rug for lunch.
Go slowly over the snow, for no one knows where the old road goes.
Who knew that two blue shoes could move the whole school?
I like to write by firelight while the night is quiet and mild.
Ask the twelfth student about strengths, depths, and months.
The splendid sprinters stretched their strong legs and sprang across the street.
Black bugs bled beside the big blue bottle, and the baby babbled.
Would you mind moving the umbrella? My map is beneath it.
Five very fine fellows found a valuable vase in the valley of voices.
Make me a promise: never let the butter melt upon my map again.
When the bell rings, the players stop, breathe, and look at the empty field.
No, thank you. I have had enough. Maybe I will come back tomorrow.
Wait. Listen. Somebody is opening the window on the upper floor.
Hello, and welcome. We have been hoping that you would visit us.
Honestly, I am not sure. Let me think about it for a moment.
The weather report promises rain in the morning, clouds by noon, and sun at last.
A vague rumor moved from the farm to the harbor before breakfast.
Both of them were wrong, and neither of them would ever admit it.
Could we possibly meet at a quarter past eleven, in front of the library?
Our neighbor's puppy jumped over the pebbles and barked at a bumblebee.
The professor proved a fairly simple theorem about prime numbers.
Please remember to feed the fish, water the plants, and lock the front door.
Nothing much happens here in winter, and that is exactly why we stay.
What a wonderful view! You can see the river, the forest, and the sea.
It was only a rough plan, but it worked far better than we had feared.
Pick a number between one and ten, then multiply it by five.
They shared a bowl of warm soup, a loaf of bread, and a pot of tea.
If memory serves me, the museum was built above a Roman bath.
The engine coughed, rattled, and finally fell silent beneath us.
""".strip().splitlines()

WHO = """
the old captain|a young doctor|my favorite neighbor|the village baker|every visitor|our new manager|a famous painter|
the tired mailman|her youngest brother|the chief engineer|one brave farmer|the whole family|his best friend|a curious child|
the museum guide|nobody in town|the school choir|that polite stranger|a group of hikers|the bus driver|my grandmother|
the chess champion|a pair of twins|the gardener
"""
DID = """
bought|carefully measured|forgot about|pushed|described|quickly repaired|painted|gave away|borrowed|photographed|hid|looked for|
examined|threw out|put together|remembered|moved|washed|built|promised to bring|wrapped up|complained about|searched through|
admired
"""
WHAT = """
a broken bicycle|the purple curtains|fifty wooden boxes|an enormous map|the missing umbrella|several jars of honey|
a very long letter|the empty bottle|two pairs of gloves|a basket of mushrooms|the oldest bridge|a beautiful vase|
the copper kettle|an unusual shadow|the birthday cake|a pile of papers|the garden furniture|a bunch of yellow tulips|the piano|
a silver whistle|the evening paper|some fresh bread|the weekly report|a jar of pickles
"""
WHERE = """
beside the river|in front of the theater|at the edge of the forest|behind the bakery|on the third floor|
near the railway station|above the kitchen|by the harbor|across from the bank|under the old oak|in the middle of the square|
outside the chapel|on a bench in the park|between two mountains|beyond the vineyard|at the airport
"""
WHEN = """
early on Monday morning|just before midnight|after a heavy storm|last February|on a warm July evening|
while the band was playing|during the long winter|a few minutes ago|as soon as the bell rang|without saying a word|
at the very last moment|for the fifth time this week|before breakfast|when the fog had lifted|as usual|to everyone's surprise
"""
SHAPES = (
    "{who} {did} {what} {where} {when}.", "{when}, {who} {did} {what} {where}.", "{who} {did} {what} {when}, and {who2} {did2} {what2}.",
    "Why is it that {who} {did} {what} {where}?", "{who} {did} {what}; {who2} watched, smiled, and said nothing.",
    "I was told that {who} {did} {what} {when}, but I do not believe it.",
)


def sentences(count: int, seed: int) -> list[str]:
    """`count` sentences, no two the same: the same for the same seed, different ones for another."""
    rng = np.random.default_rng(seed)
    texts: list[str] = [str(t) for t in rng.permutation(FIXED)][: count // 2]
    while len(texts) < count:
        if (made := _made(rng)) not in texts:
            texts.append(made)
    return [texts[i] for i in rng.permutation(count)]


def _made(rng: np.random.Generator) -> str:
    def pick(options: str) -> list[str]:
        return [str(t) for t in rng.choice([o.strip().replace("\n", " ") for o in options.split("|")], 2, replace=False)]

    (who, who2), (did, did2), (what, what2), (where, _), (when, _) = (pick(o) for o in (WHO, DID, WHAT, WHERE, WHEN))
    shape = str(rng.choice(SHAPES))
    text = shape.format(who=who, who2=who2, did=did, did2=did2, what=what, what2=what2, where=where, when=when)
    return text[0].upper() + text[1:]
